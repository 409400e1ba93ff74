"""Hard-negative mining: what may and what may not be a negative."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training import mining
from components.training.corpus import ABSENT
from components.training.lanes import use_threads
from components.training.mining import RECALL, Index, Known, Window, rank


def plane(*degrees: float) -> np.ndarray:
    """Unit vectors at these angles."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


PASSAGES = plane(0, 10, 20, 30, 40, 90)
ROWS = np.array([100, 101, 102, 103, 104, 105])


def negatives(window: Window, count: int, query_rows: list[int], positives: list[int], angles: list[float]) -> list:
    ranking = rank(plane(*angles), np.array(positives), PASSAGES, ROWS, np.array(query_rows), window)
    return ranking.candidates[:, :count].tolist()


def test_window_starts_below_the_best_ranks() -> None:
    assert negatives(Window(2, 5, 9.0), 2, [7], [100], [0]) == [[102, 103]]


def test_positives_of_the_same_query_text_are_never_negatives() -> None:
    mined = negatives(Window(0, 6, 9.0), 3, [7, 7, 8], [100, 102, 101], [0, 0, 0])
    assert mined == [[101, 103, 104], [101, 103, 104], [100, 102, 103]]


def test_the_querys_own_text_is_never_a_negative() -> None:
    assert negatives(Window(0, 6, 9.0), 2, [101], [100], [0]) == [[102, 103]]


def test_passages_that_score_like_the_positive_are_left_out() -> None:
    # positive at 10°: cosine .985; 0° and 20° pass the ceiling of .95 × .985 = .936, 30° (.866) does not
    assert negatives(Window(0, 6, 0.95), 2, [7], [101], [0]) == [[103, 104]]


def test_rows_without_enough_negatives_are_padded() -> None:
    assert negatives(Window(4, 6, 9.0), 3, [7], [100], [0]) == [[104, 105, ABSENT]]


def clusters(count: int, dims: int, seed: int) -> np.ndarray:
    """Unit vectors around 40 centres that share a direction, as embeddings do."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((40, dims)) + 2.0
    vectors = centres[rng.integers(0, len(centres), count)] + rng.standard_normal((count, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def exact(query_ND: np.ndarray, passage_PD: np.ndarray, depth: int) -> np.ndarray:
    return np.argsort(-(query_ND.astype(np.float64) @ passage_PD.T.astype(np.float64)), axis=1)[:, :depth]


def overlap(found_NR: np.ndarray, true_NR: np.ndarray) -> float:
    return float(
        np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found_NR.tolist(), true_NR.tolist(), strict=True)])
    )


def test_eight_bits_find_what_fp32_finds_in_its_order() -> None:
    passages, queries = clusters(9000, 32, 0), clusters(700, 32, 1)
    index = Index(passages, queries, 20)
    score, place = index.search(queries)
    assert overlap(place, exact(queries, passages, 20)) > 0.999
    assert np.array_equal(score, -np.sort(-score, axis=1))
    np.testing.assert_allclose(score, np.einsum("nd,nrd->nr", queries, passages[place]), rtol=1e-5)
    assert (index.name, index.recall) == ("every passage", 1.0)


def test_clusters_find_the_stated_share_and_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    passages, queries = clusters(6000, 16, 0), clusters(500, 16, 1)
    monkeypatch.setattr(mining, "EVERY", 1000)
    monkeypatch.setattr(mining, "_PROBES", 1)
    first, second = (Index(passages, queries, 30) for _ in range(2))
    found = first.search(queries)[1]
    assert "clusters" in first.name
    assert first.recall >= RECALL
    assert overlap(found, exact(queries, passages, 30)) > RECALL - 0.02
    assert np.array_equal(found, second.search(queries)[1])
    pieces = [first.search(queries[start : start + 70])[1] for start in range(0, 500, 70)]
    assert np.array_equal(found, np.concatenate(pieces))


@pytest.mark.parametrize("products", [10**12, 1000])
def test_threads_change_no_byte(products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    passages, queries = clusters(5000, 16, 0), clusters(600, 16, 1)
    monkeypatch.setattr(mining, "EVERY", products)
    found = []
    for threads in (1, 3):
        use_threads(threads)
        found.append(Index(passages, queries, 25).search(queries))
    use_threads(1)
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])


def test_partial_sorts_of_a_device_find_the_same() -> None:
    codes, asked = mining.passage_codes(clusters(40_000, 24, 0)), mining.query_codes(clusters(50, 24, 1))
    scores = mining.products(asked, codes)
    here, there = mining.scan(asked, codes, 60), mining.scan_on_device(asked, codes, 60, "cpu")
    best = -np.sort(-scores, axis=1)[:, :60]
    assert np.array_equal(np.take_along_axis(scores, here, axis=1), best)
    assert np.array_equal(np.take_along_axis(scores, there, axis=1), best)


def test_a_device_gives_the_scores_and_order_of_the_processor() -> None:
    passages, queries = clusters(3000, 32, 0), clusters(300, 32, 1)
    # PyTorch's other name of the processor goes the way of a GPU
    here, there = (Index(passages, queries, 20, device).search(queries) for device in ("cpu", "cpu:0"))
    assert np.array_equal(here[0], there[0])
    assert np.array_equal(here[1], there[1])


def test_processors_without_eight_bit_products_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    codes = np.random.default_rng(0).integers(-127, 128, (300, 64)).astype(np.int8)
    with_them = mining.products(codes[:20], codes)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert np.array_equal(mining.products(codes[:20], codes), with_them)
    assert np.array_equal(with_them, codes[:20].astype(np.int64) @ codes.T.astype(np.int64))


def test_equal_passages_are_ordered_by_row() -> None:
    passages = np.concatenate([np.repeat(plane(0, 20, 40), 300, axis=0), plane(0)])
    rows = np.arange(1000, 1901)
    ranking = rank(plane(0), rows[-1:], passages, rows, np.array([7]), Window(0, 400, 0.99))
    assert ranking.candidates[0, :99].tolist() == list(range(1300, 1399))
    assert (ranking.candidates[0, 99:] == ABSENT).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_no_known_positive_is_ever_a_candidate(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    query, positive = rng.integers(0, 12, 40), rng.integers(6, 30, 40)
    passage = np.unique(positive)
    vectors = np.abs(clusters(30, 4, seed))  # so that the ceiling lies above every score
    asked = rng.choice(40, 15)
    ranking = rank(
        vectors[query[asked]],
        positive[asked],
        vectors[passage],
        passage,
        query[asked],
        Window(0, depth, 9.0),
        Known(query, positive),
    )
    for row, candidates in zip(asked, ranking.candidates, strict=True):
        found = candidates[candidates != ABSENT]
        answers = set(positive[query == query[row]].tolist())
        assert not answers & set(found.tolist())
        assert query[row] not in found
        assert len(set(found.tolist())) == len(found)
        assert (candidates[: len(found)] != ABSENT).all()
        others = [p for p in passage.tolist() if p not in answers and p != query[row]]
        assert depth < len(passage) or sorted(found.tolist()) == others


def test_progress_and_memory_go_by_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "_CHUNK", 4)
    told: list[int] = []
    rank(
        PASSAGES[:1].repeat(10, 0),
        np.full(10, 100),
        PASSAGES,
        ROWS,
        np.full(10, 7),
        Window(0, 3, 9.0),
        None,
        "cpu",
        told.append,
    )
    assert told == [4, 4, 2]
