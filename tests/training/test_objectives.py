"""What objectives make of a batch: who is whose negative, what shares add up to, what is learned beside the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from components.core.errors import UsageError
from components.training.corpus import ABSENT, RetrievalRows
from components.training.distributed import World
from components.training.engine import EXTRA_LR, Optimiser, TorchEngine
from components.training.guide import Guide
from components.training.losses import Masks, Terms, info_nce, kl_distillation, listed_cosines, matryoshka
from components.training.objectives import Matryoshka, Related, Retrieval, ScoreDistillation, places
from components.training.trainee import StaticTrainee

DIMS = (4, 8)
MATRYOSHKA = Matryoshka.of(DIMS, "mean")
SCALE = 20.0
# items: query and positive; the second is also the answer of item 3's query, and a hard negative of item 0
QUERY, POSITIVE = np.array([1, 2, 3, 4]), np.array([11, 12, 13, 14])
NEGATIVE = np.array([[12, 21], [22, ABSENT], [23, 24], [ABSENT, ABSENT]])
BATCH = np.arange(4)
PASSAGES = [11, 12, 13, 14, 21, 22, 23, 24]  # as a batch of all items has them


def retrieval(**options: Any) -> Retrieval:
    return Retrieval(QUERY, POSITIVE, NEGATIVE, np.ones(4, np.int64), 4, SCALE, MATRYOSHKA, False, **options)


def embeddings(texts: int = 12) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(texts, 8)


def expected(embedding: torch.Tensor, masks: Masks, terms: Terms) -> tuple[float, torch.Tensor]:
    leaf = embedding.clone().requires_grad_()
    loss = matryoshka(lambda *part: info_nce(*part, SCALE, masks, terms), (leaf[:4], leaf[4:]), DIMS)
    loss.backward()
    assert leaf.grad is not None
    return loss.item(), leaf.grad


def masked(rows: int, columns: int, *cells: tuple[int, int]) -> torch.Tensor:
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    for row, column in cells:
        mask[row, column] = True
    return mask


def scores() -> ScoreDistillation:
    nan = np.nan
    given = np.array([[0.9, 0.2, 0.4], [0.8, nan, nan], [0.7, nan, 0.1], [nan, nan, nan]], dtype=np.float32)
    return ScoreDistillation(np.concatenate([POSITIVE[:, None], NEGATIVE], axis=1), given, "kl_div", 0.5, 0.2)


def guide() -> Guide:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30, 5)).astype(np.float32)
    return Guide(np.arange(30), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


EVERYTHING = {
    "terms": Terms(True, True, True, True),
    "learn_temperature": True,
    "distill": scores(),
    "guide": guide(),
}


def test_weights_follow_their_dimensions_and_hold_the_reduction() -> None:
    assert Matryoshka.of([8, 4], "sum", [3.0, 1.0]) == Matryoshka((4, 8), (1.0, 3.0))
    assert Matryoshka.of([8, 4], "mean", [3.0, 1.0]) == Matryoshka((4, 8), (0.25, 0.75))
    assert Matryoshka.of([8, 4], "mean") == Matryoshka((4, 8), (0.5, 0.5))


def test_a_batch_embeds_queries_positives_and_other_negatives_once() -> None:
    assert retrieval().texts(BATCH).rows.tolist() == [*QUERY, *PASSAGES]


def test_related_passages_are_no_negatives() -> None:
    query, positive = np.array([1, 1, 2, 3]), np.array([10, 11, 12, 13])
    related = Related(query, positive)

    def pairs(queries: list[int], candidates: list[int]) -> list[tuple[int, int]]:
        return sorted(
            zip(*(part.tolist() for part in related.pairs(np.array(queries), np.array(candidates))), strict=True)
        )

    assert pairs([1, 2], [10, 12, 11]) == [(0, 2)]  # the other answer of the same query
    assert pairs([3, 1], [13, 10, 3, 1]) == [(0, 2), (1, 3)]  # the query's own text
    assert pairs([2, 3], [12, 13]) == []


def test_places_of_values_and_of_none() -> None:
    found = places(np.array([30, 10, 20]), np.array([[10, 20], [30, ABSENT]]))
    assert found.tolist() == [[1, 2], [0, ABSENT]]


def test_other_answers_are_masked_in_every_term() -> None:
    query, positive = np.append(QUERY, 1), np.append(POSITIVE, 13)  # 13, item 2's positive, answers item 0's query too
    objective = Retrieval(
        query,
        positive,
        np.append(NEGATIVE, [[ABSENT, ABSENT]], axis=0),
        np.ones(5, np.int64),
        4,
        SCALE,
        MATRYOSHKA,
        False,
        terms=Terms(True, True, True, True),
    )
    own_negatives = [(0, 1), (0, 4), (1, 5), (2, 6), (2, 7)]
    masks = Masks(masked(4, 8, (0, 2)), masked(4, 4, (0, 2), (2, 0)), masked(4, 8, (0, 2), (2, 0), *own_negatives))
    value, gradient = expected(embeddings(), masks, Terms(True, True, True, True))
    loss, grad = objective.loss(embeddings(), BATCH, slice(0, 4))
    assert loss == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(grad, gradient, rtol=1e-4, atol=1e-6)


def test_without_in_batch_negatives_a_positive_that_was_mined_stays_one() -> None:
    value, gradient = expected(
        embeddings(), Masks(masked(4, 8, *[(i, j) for i in range(4) for j in (0, 2, 3)])), Terms()
    )
    loss, grad = retrieval(terms=Terms(in_batch=False)).loss(embeddings(), BATCH, slice(0, 4))
    assert loss == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(grad, gradient, rtol=1e-4, atol=1e-6)
    rows = np.array([1, 2])  # nothing of this batch was mined for another
    part = embeddings(2 + 5)
    only_hard = matryoshka(
        lambda *sides: info_nce(*sides, SCALE, terms=Terms(in_batch=False)), (part[:2], part[2:]), DIMS
    )
    found = retrieval(terms=Terms(in_batch=False)).loss(part, rows, slice(0, 2))[0]
    assert found == pytest.approx(only_hard.item(), rel=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"terms": Terms(in_batch=False)}, {"terms": Terms(symmetric=True)}, EVERYTHING]
)
def test_shares_of_the_processes_add_up(options: dict[str, Any]) -> None:
    whole, together = retrieval(**options), retrieval(**options)
    loss, grad = whole.loss(embeddings(), BATCH, slice(0, 4))
    parts = [together.loss(embeddings(), BATCH, share) for share in (slice(0, 1), slice(1, 3), slice(3, 4))]
    assert sum(value for value, _ in parts) == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(sum(part for _, part in parts), grad, rtol=1e-4, atol=1e-6)
    for name, parameter in whole.parameters.items():
        torch.testing.assert_close(together.parameters[name].grad, parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_learned_temperature_gets_the_gradient_of_all_losses() -> None:
    objective = retrieval(**EVERYTHING)
    (log_scale,) = objective.parameters.values()
    assert log_scale.item() == pytest.approx(np.log(SCALE))
    objective.loss(embeddings(), BATCH, slice(0, 4))
    assert log_scale.grad is not None
    gradient, losses = log_scale.grad.item(), []
    for change in (-0.01, 0.01):
        with torch.no_grad():
            log_scale.fill_(np.log(SCALE) + change)
        losses.append(objective.loss(embeddings(), BATCH, slice(0, 4))[0])
    assert gradient == pytest.approx((losses[1] - losses[0]) / 0.02, rel=1e-3)
    with torch.no_grad():
        log_scale.fill_(9.0)
    objective.loss(embeddings(), BATCH, slice(0, 4))
    assert log_scale.exp().item() == pytest.approx(100.0, rel=1e-5)
    assert retrieval().parameters == {}


def test_distillation_adds_flag_embeddings_definition_over_scored_candidates() -> None:
    plain, embedding = retrieval().loss(embeddings(), BATCH, slice(0, 4))[0], embeddings()
    # items 0 and 2 have a scored negative; item 2's first one has no score
    lists = torch.tensor([[4 + 0, 4 + 1, 4 + 4], [4 + 2, 4 + 7, 4 + 7]])
    teacher = torch.tensor([[0.9, 0.2, 0.4], [0.7, 0.1, 0.0]]) / 0.2
    absent = torch.tensor([[False, False, False], [False, False, True]])

    def divergence(part: torch.Tensor) -> torch.Tensor:
        return kl_distillation(SCALE * listed_cosines(part[[0, 2]], part[lists]), teacher, absent)

    value = matryoshka(divergence, (embedding,), DIMS).item()
    loss = retrieval(distill=scores()).loss(embedding, BATCH, slice(0, 4))[0]
    assert loss == pytest.approx(plain + 0.5 * value, rel=1e-5)
    assert retrieval(distill=scores()).loss(embedding[:4], np.array([1, 3]), slice(0, 2))[0] == pytest.approx(
        retrieval().loss(embedding[:4], np.array([1, 3]), slice(0, 2))[0]
    )


def test_margin_distillation_compares_cosines() -> None:
    distill = ScoreDistillation(scores().candidates, scores().scores, "margin", 1.0)
    cosine = torch.cosine_similarity(embeddings()[[0, 0, 0, 2, 2]], embeddings()[[4, 5, 8, 6, 11]])
    error = (cosine[0] - cosine[1] - 0.7) ** 2 + (cosine[0] - cosine[2] - 0.5) ** 2 + (cosine[3] - cosine[4] - 0.6) ** 2
    at_8 = Retrieval(
        QUERY, POSITIVE, NEGATIVE, np.ones(4, np.int64), 4, SCALE, Matryoshka.of((8,), "mean"), False, distill=distill
    )
    without = Retrieval(QUERY, POSITIVE, NEGATIVE, np.ones(4, np.int64), 4, SCALE, Matryoshka.of((8,), "mean"), False)
    found = at_8.loss(embeddings(), BATCH, slice(0, 4))[0] - without.loss(embeddings(), BATCH, slice(0, 4))[0]
    assert found == pytest.approx(error.item() / 3, rel=1e-4)


def test_distillation_without_scores_names_the_parameter() -> None:
    rows = RetrievalRows(QUERY, POSITIVE, NEGATIVE, np.ones(4, np.int64), QUERY.astype(np.uint64), QUERY, None)
    with pytest.raises(UsageError, match=r"finetune\.retrieval\.distill: no retrieval record has a teacher's scores"):
        ScoreDistillation.of(rows, "kl_div", 1.0, 1.0, "finetune.retrieval.distill")


def test_the_guide_leaves_out_what_it_takes_for_answers() -> None:
    terms = Terms(query_query=True)
    masks = guide().masks(QUERY, np.array(PASSAGES), terms)
    value, gradient = expected(embeddings(), masks, terms)
    loss, grad = retrieval(terms=terms, guide=guide()).loss(embeddings(), BATCH, slice(0, 4))
    assert loss == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(grad, gradient, rtol=1e-4, atol=1e-6)
    assert loss < retrieval(terms=terms).loss(embeddings(), BATCH, slice(0, 4))[0]


def test_a_temperature_learns_at_its_own_pace_whatever_the_models() -> None:
    moved = []
    for lr in (1e-5, 0.2):
        objective = retrieval(learn_temperature=True)
        (log_scale,) = objective.parameters.values()
        engine = TorchEngine(StaticTrainee(torch.zeros(3, 8)), Optimiser(lr, 0.1), World(), objective.parameters)
        objective.loss(embeddings(), BATCH, slice(0, 4))
        engine.step(lr)
        moved.append(abs(log_scale.item() - np.log(SCALE)))
    assert moved == pytest.approx([EXTRA_LR, EXTRA_LR], rel=1e-2)
