"""Hard-negative mining: what may and what may not be a negative."""

from __future__ import annotations

import numpy as np
import pytest

from components.training import mining
from components.training.corpus import ABSENT
from components.training.mining import Window, mine


def plane(*degrees: float) -> np.ndarray:
    """Unit vectors at these angles."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


PASSAGES = plane(0, 10, 20, 30, 40, 90)
ROWS = np.array([100, 101, 102, 103, 104, 105])


def negatives(window: Window, count: int, query_rows: list[int], positives: list[int], angles: list[float]) -> list:
    mined = mine(plane(*angles), np.array(positives), PASSAGES, ROWS, np.array(query_rows), window, count)
    return mined.tolist()


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


def test_inverted_index_finds_what_the_exact_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries, rows = vectors[:200], np.arange(3000)
    window = Window(0, 10, 0.999)
    exact = mine(queries, rows[:200], vectors, rows, rows[:200] + 5000, window, 5)
    monkeypatch.setattr(mining, "_EXACT", 100)
    first, second = (mine(queries, rows[:200], vectors, rows, rows[:200] + 5000, window, 5) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(exact.tolist(), first.tolist(), strict=True)]) > 0.7
