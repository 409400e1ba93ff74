"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from components.training.losses import (
    Masks,
    Terms,
    class_contrast,
    cosent,
    distillation,
    info_nce,
    kl_distillation,
    margin_distillation,
    matryoshka,
    value_and_gradient,
)


def test_info_nce_of_two_pairs() -> None:
    query = torch.eye(2)
    passage = torch.tensor([[0.6, 0.8], [0.8, 0.6]])
    assert info_nce(query, passage, 20).item() == pytest.approx(math.log(1 + math.exp(4)), abs=1e-5)


def test_info_nce_counts_hard_negatives_unless_masked() -> None:
    query = torch.eye(2)
    passage = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0], [1.0, 0.0]])
    assert info_nce(query, passage, 20).item() == pytest.approx(8.018479, abs=1e-5)
    hard = torch.tensor([[False, False, True, True]] * 2)
    assert info_nce(query, passage, 20, Masks(hard)).item() == pytest.approx(4.018150, abs=1e-5)


def test_info_nce_without_in_batch_negatives_leaves_out_other_positives() -> None:
    query = torch.eye(2)
    passage = torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0], [1.0, 0.0]])
    # query 0: positive 12, hard negatives 0 and 20; query 1 the same by symmetry
    expected = math.log(1 + math.exp(-12) + math.exp(8))
    assert info_nce(query, passage, 20, terms=Terms(in_batch=False)).item() == pytest.approx(expected, abs=1e-5)
    assert info_nce(query, passage[:2], 20, terms=Terms(in_batch=False)).item() == 0.0


def test_other_terms_enter_the_same_softmax_and_symmetry_by_itself_a_second_one() -> None:
    query = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    passage = torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    # scores: q·p = (16, 0), (19.2, 16); q·q' = 12; p·p' = 12
    forward = math.log(1 + math.exp(-16)), math.log(1 + math.exp(3.2))
    assert info_nce(query, passage, 20).item() == pytest.approx(sum(forward) / 2, abs=1e-5)
    queries = math.log(1 + math.exp(-16) + math.exp(-4)), math.log(1 + math.exp(3.2) + math.exp(-4))
    assert info_nce(query, passage, 20, terms=Terms(query_query=True)).item() == pytest.approx(
        sum(queries) / 2, abs=1e-5
    )
    passages = info_nce(query, passage, 20, terms=Terms(passage_passage=True)).item()
    assert passages == pytest.approx(sum(queries) / 2, abs=1e-5)  # both cosines are 0.6
    backward = math.log(1 + math.exp(3.2)), math.log(1 + math.exp(-16))
    both = info_nce(query, passage, 20, terms=Terms(symmetric=True)).item()
    assert both == pytest.approx((sum(forward) + sum(backward)) / 4, abs=1e-5)
    # GTE: positive twice, other passage, other query, passage of the other query, query of the other passage
    gte = (
        math.log(2 + math.exp(-16) + 2 * math.exp(-4) + math.exp(3.2)),
        math.log(2 + math.exp(3.2) + 2 * math.exp(-4) + math.exp(-16)),
    )
    joint = info_nce(query, passage, 20, terms=Terms(True, True, True, True)).item()
    assert joint == pytest.approx(sum(gte) / 2, abs=1e-5)


def test_masked_queries_and_siblings_are_no_negatives() -> None:
    query = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    passage = torch.tensor([[0.8, 0.6], [0.0, 1.0]])
    everything = torch.ones(2, 2, dtype=torch.bool)
    plain = info_nce(query, passage, 20).item()
    with_terms = Terms(query_query=True, passage_passage=True)
    masked = info_nce(query, passage, 20, Masks(queries=everything, siblings=everything), with_terms)
    assert masked.item() == pytest.approx(plain)
    assert info_nce(query, passage, 20, Masks(everything), Terms(symmetric=True)).item() == 0.0


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


def test_kl_distillation_is_the_cross_entropy_with_the_teachers_shares() -> None:
    student, teacher = torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([[math.log(3.0), 0.0, 9.0]])
    third_absent = torch.tensor([[False, False, True]])
    expected = 0.75 * math.log(1 + math.exp(-1)) + 0.25 * math.log(1 + math.exp(1))
    assert kl_distillation(student, teacher, third_absent).item() == pytest.approx(expected)
    assert kl_distillation(student[:, :2], teacher[:, :2]).item() == pytest.approx(expected)


def test_margin_distillation_averages_squared_differences_of_margins() -> None:
    student = torch.tensor([[0.9, 0.5, 0.1], [0.5, 0.1, 7.0]])
    teacher = torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.5, 0.0]])
    absent = torch.tensor([[False, False, False], [False, False, True]])
    expected = (0.1**2 + 0.2**2 + 0.4**2) / 3
    assert margin_distillation(student, teacher, absent).item() == pytest.approx(expected)
    assert margin_distillation(student[:, :1], teacher[:, :1]).item() == 0.0


def test_value_and_gradient_is_nothing_for_another_process() -> None:
    embedding = torch.tensor([[1.0, 2.0]])
    value, gradient = value_and_gradient(lambda part: part.square().sum(), embedding)
    assert (value, gradient.tolist()) == (5.0, [[2.0, 4.0]])
    value, gradient = value_and_gradient(lambda part: part.square().sum(), embedding, mine=False)
    assert (value, gradient.tolist()) == (0.0, [[0.0, 0.0]])


def test_half_precision_embeddings_are_widened_before_the_softmax() -> None:
    query = torch.eye(2, dtype=torch.bfloat16)
    assert info_nce(query, query, 20).dtype == torch.float32
