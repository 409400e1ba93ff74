"""Filling batches in which no text repeats, beside sentence-transformers' sampler: rows a CPU-second."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Result, Table, Taken, in_turns, timed, versions
from components.training.filling import fill_batches

ROWS = 500_000
FEW = 5000  # queries that share all rows in the hardest set
REPEATS = 3
OURS, THEIRS = "embedmill", "sentence-transformers"
BATCHES = (4, 32, 2048)

Texts = NDArray[np.int64]


def rows_of(kind: str, count: int = ROWS) -> Texts:
    """Numbers of the query and the passage of each row [N, 2]: `unique`, each query `twice`, or `few` queries."""
    number = np.arange(count)
    query = {
        "unique": number,
        "twice": number // 2,
        "few": np.random.default_rng(1).integers(0, min(FEW, count), count),
    }[kind]
    return np.stack([query, count + number], axis=1)


def ours(texts: Texts, batch_size: int) -> int:
    """Number of batches."""
    filled = fill_batches(texts, batch_size, np.random.default_rng(1))
    return sum(len(filled[batch]) == batch_size for batch in range(len(filled)))


def theirs(texts: Texts, batch_size: int) -> int:
    """Number of batches; its dataset answers at once, and has been hashed, so that only the sampling is measured."""
    import torch
    from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

    class Rows:
        column_names = ("anchor", "positive")

        def __len__(self) -> int:
            return len(texts)

    sampler = NoDuplicatesBatchSampler(Rows(), batch_size, drop_last=True, generator=torch.Generator(), seed=1)
    sampler.precompute_hashes, sampler._row_hashes = True, texts
    return sum(len(batch) == batch_size for batch in sampler)


def run() -> Result:
    words = {"unique": "no text repeats", "twice": "every query twice", "few": f"{FEW:,} queries in all"}
    cells, values = [], {}
    for kind, said in words.items():
        texts = rows_of(kind)
        for size in BATCHES:
            contestants: dict[str, Callable[[], Taken]] = {
                OURS: lambda texts=texts, size=size: timed(lambda: ours(texts, size)),
                THEIRS: lambda texts=texts, size=size: timed(lambda: theirs(texts, size)),
            }
            rate = {name: ROWS / taken.cpu for name, taken in in_turns(contestants, REPEATS).items()}
            values[f"{kind}, {size}"] = {**rate, "ratio": rate[OURS] / rate[THEIRS]}
            cells.append([f"{said}; batches of {size:,}", rate[OURS], rate[THEIRS], rate[OURS] / rate[THEIRS]])
    header = ("rows a CPU-second", OURS, THEIRS, "faster ×")
    note = (
        f"{ROWS:,} rows of a query and a passage, one core, median of {REPEATS} interleaved runs. Both fill batches by "
        "the same rule, rows that waited first; the texts of the peer, NoDuplicatesBatchSampler, are hashed beforehand."
    )
    table = Table("Batches without a repeated text", header, cells, note)
    return Result("plan", [table], values, versions(("numpy", "sentence-transformers")))
