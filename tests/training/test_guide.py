"""The guide's masks against their definition, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from components.training.encoder import Encoder
from components.training.guide import Guide
from components.training.lanes import use_threads
from components.training.losses import IN_BATCH, Terms

QUERY, PASSAGE = np.array([0, 1]), np.array([2, 3, 4])
VECTORS = np.array(
    # cosines: q0·p = (0.8, 0.6, 1), q1·p = (0.6, -0.8, 0); q0·q1 = 0
    [[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, -0.8], [1.0, 0.0]],
    dtype=np.float32,
)
ALL = Terms(query_query=True, passage_passage=True)


def masks(kind: str, margin: float) -> list[list[list[bool]]]:
    guide = Guide(np.arange(5), VECTORS, kind, margin)  # type: ignore[arg-type]
    found = guide.masks(QUERY, PASSAGE, ALL)
    return [part.tolist() for part in (found.passages, found.queries, found.siblings) if part is not None]


def test_absolute_margin_lowers_the_limit() -> None:
    passages, queries, siblings = masks("absolute", 0.0)
    assert passages == [[False, False, True], [True, False, True]]  # limits 0.8 and -0.8
    assert queries == [[True, False], [True, True]]
    assert siblings == [[True, False, False], [True, True, True]]  # p0·p = (1, 0, .8), p1·p = (0, 1, .6)
    passages, _, _ = masks("absolute", 0.25)  # limits 0.55 and -1.05
    assert passages == [[True, True, True], [True, True, True]]


def test_relative_margin_is_a_share_of_the_cosine_whatever_its_sign() -> None:
    passages, _, _ = masks("relative", 0.25)  # limits 0.6 and -1
    assert passages[0] == [True, False, True]
    assert passages[1] == [True, True, True]


def test_a_query_that_the_guide_cannot_read_masks_nothing() -> None:
    blank = VECTORS.copy()
    blank[1] = 0
    guide = Guide(np.arange(5), blank)
    found = guide.masks(QUERY, PASSAGE, IN_BATCH).passages
    assert found is not None
    assert found[1].tolist() == [False, False, False]
    assert found[0].any()


def test_only_the_terms_in_use_are_masked() -> None:
    found = Guide(np.arange(5), VECTORS).masks(QUERY, PASSAGE, IN_BATCH)
    assert found.queries is None
    assert found.siblings is None


def test_vectors_are_found_by_store_row_and_made_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[len(text), 1.0] for text in texts], np.float32)

    encoder = Encoder("lengths", "digest", 2, embed, threaded=True)
    rows = np.array([40, 7, 12])
    for _ in range(2):
        guide = Guide.of(encoder, ["dddd", "a", "bb"], rows, "absolute", 0.0, cache_dir=tmp_path)
    assert sorted(asked) == ["a", "bb", "dddd"]
    assert guide.rows.tolist() == [7, 12, 40]
    np.testing.assert_allclose(guide.vectors[:, 0] / guide.vectors[:, 1], [1, 2, 4], rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 16)).astype(np.float32)
    guide = Guide(np.arange(300), vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    use_threads(threads)
    found = guide.masks(np.arange(100), np.arange(100, 300), IN_BATCH).passages
    use_threads(1)
    unit = torch.from_numpy(guide.vectors).double()
    cosine = unit[:100] @ unit[100:].T
    close = (cosine - cosine.diagonal()[:, None]).abs() < 1e-6
    assert found is not None
    assert torch.equal(found | close, (cosine > cosine.diagonal()[:, None]) | close)
