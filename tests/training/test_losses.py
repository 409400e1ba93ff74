"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from components.training.losses import class_contrast, cosent, distillation, info_nce, matryoshka


def test_info_nce_of_two_pairs() -> None:
    query = torch.eye(2)
    passage = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    assert info_nce(query, passage, 20).item() == pytest.approx(math.log(1 + math.exp(4)), abs=1e-5)


def test_info_nce_counts_hard_negatives_unless_masked() -> None:
    query = torch.eye(2)
    passage = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0], [1.0, 0.0]])
    assert info_nce(query, passage, 20).item() == pytest.approx(8.018479, abs=1e-5)
    hard = torch.tensor([[False, False, True, True]] * 2)
    assert info_nce(query, passage, 20, hard).item() == pytest.approx(4.018150, abs=1e-5)


def test_cosent_ranks_pairs_by_label() -> None:
    left = torch.tensor([[1.0, 0.0]] * 3)
    right = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]])
    label = torch.tensor([1.0, 0.0, 0.5])
    assert cosent(left, right, label, 20).item() == pytest.approx(16.000006, abs=1e-5)
    assert cosent(left, right, torch.ones(3), 20).item() == 0.0


def test_matryoshka_weighs_the_dimensions() -> None:
    query = torch.tensor([[3.0, 4, 0, 0], [0, 5, 0, 12]])
    passage = torch.tensor([[4.0, 3, 0, 0], [0, 1, 0, 0]])

    def loss(*parts: torch.Tensor) -> torch.Tensor:
        return info_nce(*parts, scale=20)

    assert loss(query, passage).item() == pytest.approx(0.042512, abs=1e-6)
    assert loss(query[:, :2], passage[:, :2]).item() == pytest.approx(0.020144, abs=1e-6)
    total = matryoshka(loss, (query, passage), (4, 2), (1.0, 0.5), "sum").item()
    assert total == pytest.approx(0.052584, abs=1e-6)
    assert matryoshka(loss, (query, passage), (4, 2), (1.0, 0.5)).item() == pytest.approx(total / 1.5, abs=1e-6)


def test_class_contrast_uses_only_the_classes_of_its_row() -> None:
    text = torch.eye(2)
    classes = torch.tensor([[[0.6, 0.8], [0.8, 0.6]], [[1.0, 0.0], [0.0, 1.0]]])
    expected = (math.log(1 + math.exp(4)) + math.log(1 + math.exp(20))) / 2
    assert class_contrast(text, classes, 20).item() == pytest.approx(expected, abs=1e-5)
    second_absent = torch.tensor([[False, True], [False, True]])
    assert class_contrast(text, classes, 20, second_absent).item() == 0.0


def test_distillation_is_one_minus_cosine() -> None:
    student = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    teacher = torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    assert distillation(student, teacher).item() == pytest.approx(0.2)


def test_half_precision_embeddings_are_widened_before_the_softmax() -> None:
    query = torch.eye(2, dtype=torch.bfloat16)
    assert info_nce(query, query, 20).dtype == torch.float32
