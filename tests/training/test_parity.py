"""The same loss and gradient as sentence-transformers' losses, and as FlagEmbedding's and Piccolo2's definitions.

Both sides get the same fp32 embeddings; losses agree within 1e-5, gradients within 1e-5 of their norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer import losses as theirs
from tokenizers import Tokenizer, models
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from components.training.fused import Contrast, fused_info_nce
from components.training.guide import Guide
from components.training.losses import (
    IN_BATCH,
    NO_MASKS,
    Masks,
    Terms,
    class_contrast,
    cosent,
    info_nce,
    kl_distillation,
    listed_cosines,
    margin_distillation,
    matryoshka,
    value_and_gradient,
)

PAIRS, NEGATIVES, DIMS = 24, 3, 32
SCALE = 20.0
TERMS = {
    "query_to_doc": Terms(),
    "query_to_query": Terms(query_query=True),
    "doc_to_doc": Terms(passage_passage=True),
    "doc_to_query": Terms(symmetric=True),
}


class Table(nn.Sequential):
    """What sentence-transformers' losses need of a model: a text is a row of a table."""

    def __init__(self, rows: int, dims: int, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Embedding(rows, dims))
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
        self.max_seq_length = 1

    @property
    def table(self) -> torch.Tensor:
        return self[0].weight

    def get_embedding_dimension(self) -> int:
        return self.table.shape[1]

    def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {**features, "sentence_embedding": self[0](features["input_ids"][:, 0])}


def columns(count: int) -> list[dict[str, torch.Tensor]]:
    """Features of ``count`` columns of texts: the first is the query, the second its positive, then its negatives."""
    ids = torch.arange(count * PAIRS).reshape(count, PAIRS, 1)
    return [{"input_ids": column, "attention_mask": torch.ones_like(column)} for column in ids]


def model(count: int = 2 + NEGATIVES, seed: int = 0) -> Table:
    return Table(count * PAIRS, DIMS, seed)


def run(loss: nn.Module, of: Table, count: int, labels: Any = None) -> tuple[float, torch.Tensor]:
    """Their loss and its gradient on the table."""
    value = loss(columns(count), labels)
    value.backward()
    assert of.table.grad is not None
    return value.item(), of.table.grad


def fused(table: torch.Tensor, terms: Terms = IN_BATCH, masks: Masks = NO_MASKS, **options: Any) -> Contrast:
    part = table.detach()
    dims, weights = options.get("dims", (DIMS,)), options.get("weights", (1.0,))
    return fused_info_nce(part[:PAIRS], part[PAIRS:], options.get("scale", SCALE), dims, weights, masks, terms)


def plain(table: torch.Tensor, terms: Terms = IN_BATCH, masks: Masks = NO_MASKS) -> tuple[float, torch.Tensor]:
    return value_and_gradient(lambda part: info_nce(part[:PAIRS], part[PAIRS:], SCALE, masks, terms), table)


def assert_same(ours: tuple[float, torch.Tensor] | Contrast, others: tuple[float, torch.Tensor]) -> None:
    if isinstance(ours, Contrast):
        ours = ours.loss, torch.cat([ours.query_grad, ours.passage_grad])
    assert ours[0] == pytest.approx(others[0], rel=1e-5)
    assert (ours[1] - others[1]).norm() <= 1e-5 * others[1].norm()


def own_negatives(count: int) -> torch.Tensor:
    """sentence-transformers does not set a positive against the hard negatives of its own query."""
    return torch.eye(PAIRS, dtype=torch.bool).repeat(1, count - 1)


@pytest.mark.parametrize("count", [2, 2 + NEGATIVES])
@pytest.mark.parametrize("cached", [False, True])
def test_multiple_negatives_ranking(count: int, cached: bool) -> None:
    table = model(count)
    loss: nn.Module = theirs.MultipleNegativesRankingLoss(table, scale=SCALE)
    if cached:
        loss = theirs.CachedMultipleNegativesRankingLoss(table, scale=SCALE, mini_batch_size=7)
    others = run(loss, table, count)
    assert_same(fused(table.table), others)
    assert_same(plain(table.table), others)


@pytest.mark.parametrize(
    ("directions", "partition"),
    [
        (("query_to_doc", "doc_to_query"), "per_direction"),
        (("query_to_doc", "query_to_query"), "joint"),
        (("query_to_doc", "doc_to_doc"), "joint"),
        (("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc"), "joint"),
    ],
)
def test_terms_are_directions(directions: Sequence[Any], partition: Any) -> None:
    table, count = model(), 2 + NEGATIVES
    terms = Terms(True, *(f"{name}" in directions for name in ("query_to_query", "doc_to_doc", "doc_to_query")))
    loss = theirs.MultipleNegativesRankingLoss(
        table, scale=SCALE, directions=tuple(directions), partition_mode=partition
    )
    masks, others = Masks(siblings=own_negatives(count)), run(loss, table, count)
    assert_same(fused(table.table, terms, masks), others)
    assert_same(plain(table.table, terms, masks), others)


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 0.25]])
def test_matryoshka_sum(weights: list[float] | None) -> None:
    table, dims = model(), [DIMS, 16, 8]
    inner = theirs.MultipleNegativesRankingLoss(table, scale=SCALE)
    others = run(theirs.MatryoshkaLoss(table, inner, dims, weights), table, 2 + NEGATIVES)
    ascending = list(reversed(weights or [1.0] * 3))
    assert_same(fused(table.table, dims=dims[::-1], weights=ascending), others)
    by_autograd = value_and_gradient(
        lambda part: matryoshka(
            lambda *sides: info_nce(*sides, SCALE), (part[:PAIRS], part[PAIRS:]), dims, weights, "sum"
        ),
        table.table,
    )
    assert_same(by_autograd, others)


@pytest.mark.parametrize(("kind", "margin"), [("absolute", 0.0), ("absolute", 0.1), ("relative", 0.1)])
@pytest.mark.parametrize("other_terms", [False, True])
def test_guided_false_negatives(kind: Any, margin: float, other_terms: bool) -> None:
    count, terms = 3, Terms(query_query=other_terms, passage_passage=other_terms)
    table, guide = model(count), model(count, seed=5)
    with torch.no_grad():  # a guide that likes most positives
        guide.table[PAIRS : 2 * PAIRS] += 0.5 * guide.table[:PAIRS]
    loss = theirs.GISTEmbedLoss(table, guide, 1 / SCALE, kind, margin, other_terms, other_terms)  # type: ignore[arg-type]
    others = run(loss, table, count)
    vectors = functional.normalize(guide.table.detach(), dim=1).numpy()
    rows = np.arange(count * PAIRS)
    masks = Guide(rows, vectors, kind, margin).masks(rows[:PAIRS], rows[PAIRS:], terms)
    assert masks.passages is not None
    assert masks.passages.sum() > PAIRS
    if masks.siblings is not None:
        masks.siblings[:, PAIRS:] = True  # they set a positive against other positives only
    assert_same(fused(table.table, terms, masks), others)
    assert_same(plain(table.table, terms, masks), others)


@pytest.mark.parametrize("dims", [[DIMS], [DIMS, 8]])
def test_cosent_with_ties(dims: list[int]) -> None:
    table, label = model(2), torch.arange(PAIRS) % 5 / 4.0
    inner = theirs.CoSENTLoss(table, scale=SCALE)
    others = run(theirs.MatryoshkaLoss(table, inner, dims) if len(dims) > 1 else inner, table, 2, label)
    ours = value_and_gradient(
        lambda part: matryoshka(
            lambda left, right: cosent(left, right, label, SCALE), (part[:PAIRS], part[PAIRS:]), dims, reduction="sum"
        ),
        table.table,
    )
    assert_same(ours, others)


def lists(part: torch.Tensor) -> torch.Tensor:
    """Candidates of each query, its positive first [B, 1 + N, D]."""
    return part[PAIRS:].reshape(1 + NEGATIVES, PAIRS, DIMS).transpose(0, 1)


def teacher() -> torch.Tensor:
    torch.manual_seed(3)
    return torch.rand(PAIRS, 1 + NEGATIVES)


def test_margin_and_divergence_from_a_teachers_scores() -> None:
    def cosine(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return functional.cosine_similarity(left, right)

    def ours(loss: Callable[[torch.Tensor], torch.Tensor], table: Table) -> tuple[float, torch.Tensor]:
        return value_and_gradient(lambda part: loss(listed_cosines(part[:PAIRS], lists(part))), table.table)

    table = model()
    others = run(theirs.MarginMSELoss(table, similarity_fct=cosine), table, 2 + NEGATIVES, teacher())
    assert_same(ours(lambda score: margin_distillation(score, teacher()), table), others)

    table = model()
    loss = theirs.DistillKLDivLoss(table, similarity_fct=cosine, temperature=0.1)
    value, gradient = run(loss, table, 2 + NEGATIVES, teacher())
    found = ours(lambda score: 0.01 * kl_distillation(score / 0.1, teacher() / 0.1), table)
    # theirs is the divergence, so it lacks the entropy of the teacher, which has no gradient
    entropy = torch.distributions.Categorical(logits=teacher() / 0.1).entropy().mean().item()
    assert found[0] - 0.01 * entropy == pytest.approx(value, rel=1e-4)
    assert (found[1] - gradient).norm() <= 1e-5 * gradient.norm()


def flag_embedding(query: torch.Tensor, groups: torch.Tensor, scores: torch.Tensor | None) -> torch.Tensor:
    """BGE's fine-tuning: passages lie in groups of 1 + N, the target of query k is k × (1 + N); temperature 0.02.

    With a teacher's scores the cross-entropy with their softmax over the query's own group is added.
    """
    unit_query, unit_groups = functional.normalize(query, dim=1), functional.normalize(groups, dim=2)
    logits = unit_query @ unit_groups.flatten(0, 1).T / 0.02
    loss = -logits.log_softmax(1)[torch.arange(PAIRS), torch.arange(PAIRS) * (1 + NEGATIVES)].mean()
    if scores is not None:
        own = (unit_query[:, None] * unit_groups).sum(2) / 0.02
        loss = loss - (scores.softmax(1) * own.log_softmax(1)).sum(1).mean()
    return loss


@pytest.mark.parametrize("distilled", [False, True])
def test_flag_embeddings_definition(distilled: bool) -> None:
    table = model().table.detach()
    others = value_and_gradient(
        lambda part: flag_embedding(part[:PAIRS], lists(part), teacher() if distilled else None), table
    )
    contrast = fused(table, scale=1 / 0.02)
    loss, gradient = contrast.loss, torch.cat([contrast.query_grad, contrast.passage_grad])
    if distilled:
        more, slope = value_and_gradient(
            lambda part: kl_distillation(listed_cosines(part[:PAIRS], lists(part)) / 0.02, teacher()), table
        )
        loss, gradient = loss + more, gradient + slope
    assert_same((loss, gradient), others)


def test_flag_embeddings_definition_without_in_batch_negatives() -> None:
    """There a query sees its own group only; here, as in Conan-embedding, also the other queries' hard negatives."""
    table = model().table.detach()
    others = value_and_gradient(
        lambda part: -(listed_cosines(part[:PAIRS], lists(part)) / 0.02).log_softmax(1)[:, 0].mean(), table
    )
    own = torch.eye(PAIRS, dtype=torch.bool).repeat(1, 1 + NEGATIVES)
    assert_same(fused(table, masks=Masks(~own), scale=1 / 0.02), others)


def test_piccolos_definitions() -> None:
    """Retrieval: temperature 0.01, over positives and the texts' negatives; the mean over the MRL list.

    CoSENT and classes: temperature 0.05, weights 0.04 and 0.2, no in-batch negatives for classes.
    """
    table, dims = model(3).table.detach().double(), (8, 16, DIMS)
    label = torch.arange(PAIRS) % 4 / 3.0

    def theirs_at(part: torch.Tensor) -> torch.Tensor:
        query, positive, negative = functional.normalize(part.reshape(3, PAIRS, -1), dim=2)
        candidates = torch.cat([positive, negative])
        retrieval = functional.cross_entropy(query @ candidates.T / 0.01, torch.arange(PAIRS))
        score = (query * positive).sum(1) / 0.05
        pairs = [
            (score[j] - score[i]).exp() for i in range(PAIRS) for j in range(PAIRS) if label[i].item() > label[j].item()
        ]
        graded = torch.log(1 + torch.stack(pairs).sum())
        own, other = (query * positive).sum(1) / 0.05, (query * negative).sum(1) / 0.05
        classes = torch.log(1 + (other - own).exp()).mean()
        return retrieval + 0.04 * graded + 0.2 * classes

    others = value_and_gradient(lambda part: sum(theirs_at(part[:, :dim]) for dim in dims) / len(dims), table)
    contrast = fused(table, dims=dims, weights=[1 / 3] * 3, scale=1 / 0.01)

    def rest(part: torch.Tensor) -> torch.Tensor:
        query, positive, negative = part.reshape(3, PAIRS, -1)
        classes = class_contrast(query, torch.stack([positive, negative], dim=1), 1 / 0.05)
        return 0.04 * cosent(query, positive, label, 1 / 0.05) + 0.2 * classes

    more, slope = value_and_gradient(lambda part: matryoshka(rest, (part,), dims), table)
    gradient = torch.cat([contrast.query_grad, contrast.passage_grad]) + slope
    assert_same((contrast.loss + more, gradient), others)
    assert math.isfinite(contrast.loss)
