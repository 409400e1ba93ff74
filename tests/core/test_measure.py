"""Metrics against hand values, a brute-force ranking and faiss; dimensions by truncation; ties."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from components.core.errors import InputError
from components.core.measure import (
    Embedded,
    embed_tasks,
    measure,
    measure_embedded,
    ranking_metrics,
    relevant_ranks,
    spearman,
    sts_spearman,
)
from components.core.prompts import Prompts
from components.core.suite import RetrievalTask, StsTask

Floats = NDArray[np.float32]


def task_of(qrels: list[dict[int, float]], passages: int) -> RetrievalTask:
    return RetrievalTask(
        "t", "en", [f"q{row}" for row in range(len(qrels))], [f"p{row}" for row in range(passages)], qrels
    )


def brute_force(scores: NDArray[np.float64], qrels: list[dict[int, float]]) -> dict[str, float]:
    """The definitions, word by word, over full rankings."""
    totals: dict[str, float] = {}
    for row, gains in zip(scores, qrels, strict=True):
        ranking = sorted(range(len(row)), key=lambda passage: (-row[passage], passage))
        dcg = sum(gains.get(passage, 0) / math.log2(rank + 2) for rank, passage in enumerate(ranking[:10]))
        ideal = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(sorted(gains.values(), reverse=True)[:10]))
        values = {"ndcg_at_10": dcg / ideal}
        for cut in (1, 10, 100):
            values[f"recall_at_{cut}"] = sum(passage in gains for passage in ranking[:cut]) / len(gains)
        values["mrr_at_10"] = next((1 / (r + 1) for r, passage in enumerate(ranking[:10]) if passage in gains), 0.0)
        hits, precision = 0, 0.0
        for rank, passage in enumerate(ranking[:100]):
            if passage in gains:
                hits += 1
                precision += hits / (rank + 1)
        values["map_at_100"] = precision / len(gains)
        for name, value in values.items():
            totals[name] = totals.get(name, 0) + 100 * value / len(qrels)
    return totals


def random_task(seed: int, queries: int = 40, passages: int = 150) -> RetrievalTask:
    random = np.random.default_rng(seed)
    qrels = []
    for _ in range(queries):
        chosen = random.choice(passages, int(random.integers(1, 14)), replace=False).tolist()
        qrels.append({passage: float(random.integers(1, 4)) for passage in chosen})
    return task_of(qrels, passages)


def unit(vectors: NDArray[np.float64]) -> Floats:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_hand_values_of_a_graded_ranking() -> None:
    scores = np.array([[0.9, 0.5, 0.7, 0.1], [0.1, 0.2, 0.3, 0.4]], np.float32)
    task = task_of([{0: 1.0, 1: 2.0}, {0: 1.0}], 4)
    got = ranking_metrics([scores], task)
    # query 1: gains 1, 0, 2 on ranks 1-3: DCG 1 + 2/log2(4) = 2, ideal 2 + 1/log2(3) = 2.63093; query 2: rank 4
    assert got["ndcg_at_10"] == pytest.approx(50 * (2 / 2.6309297536 + 1 / math.log2(5)), abs=1e-3)
    assert got["recall_at_1"] == pytest.approx(25.0)
    assert got["recall_at_10"] == 100.0
    assert got["mrr_at_10"] == pytest.approx(50 * (1 + 1 / 4), abs=1e-3)
    assert got["map_at_100"] == pytest.approx(50 * ((1 + 2 / 3) / 2 + 1 / 4), abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_equal_brute_force_with_many_ties(seed: int) -> None:
    task = random_task(seed)
    scores = np.random.default_rng(seed).integers(0, 6, (40, 150)).astype(np.float32)
    expected = brute_force(scores.astype(np.float64), task.qrels)
    assert ranking_metrics([scores[:7], scores[7:]], task) == pytest.approx(expected, abs=1e-3)


def test_every_dimension_equals_measuring_truncated_vectors() -> None:
    task, random = random_task(3), np.random.default_rng(3)
    queries, passages = unit(random.standard_normal((40, 48))), unit(random.standard_normal((150, 48)))
    vectors = np.concatenate([queries, passages])
    texts = [*task.query_texts, *task.passage_texts]
    by_dim = measure(_Fixed(dict(zip(texts, vectors, strict=True))), [task], (64, 16, 5), Prompts())["t"]
    assert list(by_dim) == [48, 16, 5]
    for dim, got in by_dim.items():
        cut_queries, cut_passages = unit(queries[:, :dim].astype(float)), unit(passages[:, :dim].astype(float))
        assert got == pytest.approx(
            brute_force(cut_queries.astype(float) @ cut_passages.T.astype(float), task.qrels), abs=1e-3
        )


def test_ranks_are_those_of_an_exact_faiss_search() -> None:
    import faiss

    random = np.random.default_rng(5)
    task = random_task(5, queries=600, passages=700)  # more than one block of queries
    queries, passages = unit(random.standard_normal((600, 32))), unit(random.standard_normal((700, 32)))
    index = faiss.IndexFlatIP(32)
    index.add(passages)
    found = index.search(queries, 700)[1]
    embedded = embed_tasks(
        _Fixed(dict(zip([*task.query_texts, *task.passage_texts], [*queries, *passages], strict=True))),
        [task],
        Prompts(),
    )
    for row, ranks in enumerate(relevant_ranks(embedded[0], task)):
        assert ranks == {passage: int(np.flatnonzero(found[row] == passage)[0]) + 1 for passage in task.qrels[row]}


def test_equal_passages_are_ranked_by_index() -> None:
    passages = np.ones((6, 4), np.float32) / 2
    task = task_of([{4: 1.0}], 6)
    assert measure_embedded(task, Embedded(passages[:1], passages), ())[passages.shape[1]][
        "mrr_at_10"
    ] == pytest.approx(20.0)


def test_vectors_with_nan_are_refused_instead_of_ranked_first() -> None:
    task = task_of([{0: 1.0}], 1)
    encoder = _Fixed({"q0": np.array([np.nan, 1], np.float32), "p0": np.array([1, 0], np.float32)})
    with pytest.raises(InputError, match="NaN"):
        measure(encoder, [task], (), Prompts())


def test_each_text_is_encoded_once_for_all_tasks() -> None:
    first = task_of([{0: 1.0}], 3)
    second = StsTask("s", "en", ["p0", "q0"], ["p1", "p0"], [1.0, 0.0])
    encoder = _Fixed({text: np.eye(4, dtype=np.float32)[row] for row, text in enumerate(["q0", "p0", "p1", "p2"])})
    measure(encoder, [first, second], (2,), Prompts())
    assert encoder.encoded == ["q0", "p0", "p1", "p2"]


def test_spearman_gives_ties_their_average_rank() -> None:
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 9, 300) / 9, random.integers(0, 5, 300)
    assert spearman(scores, labels.tolist()) == pytest.approx(100 * spearmanr(scores, labels).statistic, abs=1e-3)
    assert spearman([0.1, 0.2, 0.3], [3, 2, 1]) == -100.0
    assert spearman([0.5, 0.5, 0.5], [1, 2, 3]) == 0.0


def test_similarity_uses_cosine_and_takes_rounding_for_a_tie() -> None:
    left = np.array([[1, 0], [2, 0], [1, 1], [0, 0]], np.float32)
    right = np.array([[5, 0], [0.3, 0], [1, -1], [1, 0]], np.float32)
    assert sts_spearman(left, right, [5, 5, 0, 0]) == 100.0


def test_similarity_is_measured_at_each_dimension() -> None:
    vectors = {
        "a": np.array([1, 0, 0, 9], np.float32),
        "b": np.array([1, 0, 0, -9], np.float32),
        "c": np.array([0, 1, 0, 9], np.float32),
    }
    task = StsTask("s", "en", ["a", "a"], ["b", "c"], [1.0, 0.0])
    got = measure_embedded(task, embed_tasks(_Fixed(vectors), [task], Prompts())[0], (2,))
    assert got == {4: {"spearman": -100.0}, 2: {"spearman": 100.0}}


class _Fixed:
    """Gives each text its vector, and remembers what it was asked for."""

    def __init__(self, vectors: dict[str, Floats]) -> None:
        self.vectors = vectors
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> Floats:
        self.encoded += texts
        return np.stack([self.vectors[text] for text in texts])


def test_each_side_is_encoded_within_its_prompt() -> None:
    encoder = _Fixed({text: np.eye(4, dtype=np.float32)[0] for text in ("Q: q0", "p0 .", "= a", "= b")})
    tasks = [task_of([{0: 1.0}], 1), StsTask("s", "en", ["a"], ["b"], [1.0])]
    measure(encoder, tasks, (), Prompts("Q: ", "{text} .", "= "))
    assert encoder.encoded == ["Q: q0", "p0 .", "= a", "= b"]
