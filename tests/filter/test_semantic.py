"""Semantic duplicates: which rows go for which, against brute force, and the same bytes in any way it runs."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from components.core.errors import UsageError
from components.core.manifest import Dataset
from components.filter import semantic, semantic_shuffle

Filter = Callable[..., Dataset]
Floats = NDArray[np.float32]

ON = {"model": "wordllama", "threshold": 0.9}
# Two wordings of a query and two of its answer: the words agree, the runs of characters do not.
WORDINGS = [
    (("how to open a csv file", "a csv file: how to open"), ("Read rows of a csv file.", "A csv file: rows, read.")),
    (("close the network socket", "network socket: the close"), ("End a connection now.", "Now a connection, end.")),
]


def unit(vectors: Floats) -> Floats:
    scaled: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def clustered(rows: int, clusters: int, dims: int, spread: float, seed: int = 0) -> Floats:
    """Pair vectors in tight clusters, both sides alike."""
    rng = np.random.default_rng(seed)
    centre, member = rng.standard_normal((clusters, 2 * dims)), rng.integers(0, clusters, rows)
    vectors = (centre[member] + spread * rng.standard_normal((rows, 2 * dims))).astype(np.float32)
    return semantic.pair_vectors(unit(vectors[:, :dims]), unit(vectors[:, dims:]))


def brute(vectors: Floats, threshold: float) -> set[tuple[int, int]]:
    half = vectors.shape[1] // 2
    both = np.minimum(vectors[:, :half] @ vectors[:, :half].T, vectors[:, half:] @ vectors[:, half:].T) * 2
    return {(int(a), int(b)) for a, b in np.argwhere(both >= threshold) if a < b}


def test_both_sides_must_reach_the_threshold() -> None:
    left, right = unit(np.array([[1, 0], [1, 0.1], [1, 0.05]], np.float32)), np.eye(3, 2, dtype=np.float32)
    right[2] = right[0]
    vectors = semantic.pair_vectors(left, right)
    a, b, cosine = semantic.similar_pairs(vectors, np.arange(3, dtype=np.uint64), 0.95)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 2)]
    assert cosine[0] == pytest.approx(float(left[0] @ left[2]), abs=1e-6)


def test_every_pair_of_a_cell_is_found() -> None:
    vectors = clustered(600, 200, 16, 0.3)
    ranks = np.random.default_rng(1).permutation(600).astype(np.uint64)
    a, b, _ = semantic.similar_pairs(vectors, ranks, 0.9)
    found = {(min(pair), max(pair)) for pair in zip(a.tolist(), b.tolist(), strict=True)}
    expected = brute(vectors, 0.9)
    assert len(expected) > 100
    assert found == expected


@pytest.mark.parametrize(("most", "recall"), [(10_000, 0.995), (200, 0.9)])
def test_nearly_every_pair_is_found_across_cells_and_in_halved_cells(
    monkeypatch: pytest.MonkeyPatch, most: int, recall: float
) -> None:
    monkeypatch.setattr(semantic, "MAX_COMPARED", most)
    vectors = clustered(4000, 1300, 32, 0.25)
    centroids = semantic.learn_cells(vectors, 16)
    cells = semantic.nearest_cells(vectors, centroids)
    assert len(np.unique(cells)) > 8
    found: set[tuple[int, int]] = set()
    for cell in np.unique(cells):
        rows = np.flatnonzero((cells == cell).any(axis=1))
        a, b, _ = semantic.similar_pairs(vectors[rows], rows.astype(np.uint64), 0.9)
        found |= {(int(min(pair)), int(max(pair))) for pair in zip(rows[a], rows[b], strict=True)}
    expected = brute(vectors, 0.9)
    assert found <= expected
    assert len(found) > recall * len(expected) > 1000


def test_rows_without_a_vector_are_like_nothing() -> None:
    side = np.array([[1, 0], [0, 0], [0, 0], [np.nan, 1], [np.nan, 1], [1, 0]], np.float32)
    vectors = semantic.pair_vectors(side, np.tile(np.array([[1, 0]], np.float32), (6, 1)))
    a, b, _ = semantic.similar_pairs(vectors, np.arange(6, dtype=np.uint64), 0.9)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [(0, 5)]


def corpus(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Pairs of which some say the same in other words, as retrieval and as similarity pairs."""
    choose = random.Random(seed)
    rows = [
        {"task": "retri_contrast", "text": left, "text_pos": right, "source": "s"}
        for lefts, rights in WORDINGS
        for left, right in zip(lefts, rights, strict=True)
    ]
    rows.append({"task": "retri_contrast", "text": WORDINGS[0][0][1], "text_pos": WORDINGS[1][1][0], "source": "s"})
    left, right = WORDINGS[0][0][0], WORDINGS[0][1][0]
    rows.append({"task": "cosent", "text": left, "text_pair": right, "label": 1.0, "source": "c"})
    words = ["table", "index", "vector", "parse", "merge", "archive", "header", "token", "matrix", "row", "sort"]
    for _ in range(count):
        query, answer = (" ".join(choose.choices(words, k=size)) for size in (5, 12))
        rows.append({"task": "retri_contrast", "text": query, "text_pos": answer, "source": "s"})
        if choose.random() < 0.3:
            other = [" ".join(choose.sample(side.split(), len(side.split()))) for side in (query, answer)]
            rows.append({"task": "retri_contrast", "text": other[0], "text_pos": other[1], "source": "s"})
    choose.shuffle(rows)
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(autouse=True)
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_one_row_of_the_same_meaning_survives_and_the_others_say_which(filtered: Filter) -> None:
    rows = corpus(40)
    off = filtered(rows)
    result = filtered(rows, semantic_duplicates=ON)
    result.ledger.check()
    lost = [row for row in result.read_rejected().to_pylist() if row["reason"] == "semantic_duplicate"]
    assert result.ledger.dropped["s"]["semantic_duplicate"] == len(lost) == off.rows - result.rows
    kept = result.read().to_pylist()
    ids = {row["id"] for row in kept}
    for row in lost:
        survivor, cosine = row["detail"].removeprefix("of ").partition(",")[0], row["detail"].rpartition("cosine ")[2]
        assert int(survivor) in ids
        assert 0.9 <= float(cosine) <= 1
    queries = [row["text"] for row in kept if row["task"] == "retri_contrast"]
    for lefts, rights in WORDINGS:
        pairs = [row for row in kept if row["text"] in lefts and row["text_pos"] in rights]
        assert len(pairs) == 1, "one of both wordings"
    assert WORDINGS[0][0][1] in queries, "one equal side is not enough"
    assert any(row["task"] == "cosent" for row in kept), "another task is another thing"


def test_the_same_bytes_with_any_workers_shards_of_memory_and_after_a_kill(
    filtered: Filter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = corpus(300)
    monkeypatch.setattr(semantic, "CELL_ROWS", 50)
    filtered(rows, per_shard=40, semantic_duplicates=ON)
    first = contents(tmp_path / "out")
    assert Dataset.open(str(tmp_path / "out")).ledger.dropped["s"]["semantic_duplicate"] > 50
    assert not any("_phases" in name for name in first)
    for task_memory, workers in ((1024, 2), (1, 1)):
        shutil.rmtree(tmp_path / "out")
        shutil.rmtree(tmp_path / ".embedmill")
        filtered(rows, per_shard=40, workers=workers, semantic_duplicates=ON, task_memory=task_memory)
        assert contents(tmp_path / "out") == first
    shutil.rmtree(tmp_path / "out")
    for module, broken in ((semantic_shuffle, "_embed"), (semantic, "similar_pairs")):
        real, calls = getattr(module, broken), [0]

        def fail(*arguments: Any, real: Any = real, calls: list[int] = calls) -> Any:
            calls[0] += 1
            if calls[0] > 2:
                raise KeyboardInterrupt
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(module, broken, fail)
            with pytest.raises(KeyboardInterrupt):
                filtered(rows, per_shard=40, semantic_duplicates=ON)
    filtered(rows, per_shard=40, semantic_duplicates=ON)
    assert contents(tmp_path / "out") == first


def test_an_unknown_model_is_said_before_any_work(filtered: Filter, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="encoder 'no/such/folder'"):
        filtered(corpus(3), semantic_duplicates={"model": "no/such/folder"})
    assert not (tmp_path / "out").exists()
