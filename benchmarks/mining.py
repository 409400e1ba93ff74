"""Mining the best 100 of 200,000 passages for 10,000 queries, beside faiss: time and recall in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import Result, Table, interleaved, versions

QUERIES, PASSAGES, DIMS, DEPTH = 10_000, 200_000, 256, 100
CENTRES = 2000  # of the clusters that the vectors lie in
FALL = 0.4  # power by which later dimensions are smaller, as in a model trained for Matryoshka dimensions
SAMPLE = 500  # queries whose ranking in double precision says what was found
THREADS = 2
REPEATS = 3
OURS, CLUSTERS = "embedmill, every passage (chosen at this size)", "embedmill, nearest clusters (chosen for more)"
FLAT, INVERTED = "faiss IndexFlatIP", "faiss IndexIVFFlat, 24 of 1,788 lists"

Floats = NDArray[np.float32]
Found = NDArray[np.int64]


def vectors(passages: int, queries: int, dims: int = DIMS, seed: int = 1) -> tuple[Floats, Floats]:
    """Unit vectors in clusters that share a direction; a query is a passage with noise."""
    rng = np.random.default_rng(seed)
    fall = (1 + np.arange(dims)) ** -FALL
    centres = (rng.standard_normal((CENTRES, dims)) + 0.5) * fall
    passage = np.empty((passages, dims), np.float32)
    for start in range(0, passages, 65_536):
        part = passage[start : start + 65_536]
        part[:] = centres[rng.integers(CENTRES, size=len(part))] + rng.standard_normal(part.shape) * fall
    passage /= np.linalg.norm(passage, axis=1, keepdims=True)
    noise = rng.standard_normal((queries, dims)) * fall
    query = passage[rng.integers(passages, size=queries)] + 0.7 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
    return passage, (query / np.linalg.norm(query, axis=1, keepdims=True)).astype(np.float32)


def run() -> Result:
    import faiss
    import torch

    from components.training.lanes import use_threads

    use_threads(THREADS)
    faiss.omp_set_num_threads(THREADS)
    passage, query = vectors(PASSAGES, QUERIES)
    found: dict[str, Found] = {}
    cpu: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], Found]) -> Callable[[], float]:
        def measure() -> float:
            start, busy = time.perf_counter(), time.process_time()
            found[name] = work()
            cpu.setdefault(name, []).append(time.process_time() - busy)
            return time.perf_counter() - start

        return measure

    contestants = {
        OURS: lambda: ours(passage, query, 10**18),
        FLAT: lambda: flat(passage, query),
        CLUSTERS: lambda: ours(passage, query, 0),
        INVERTED: lambda: inverted(passage, query),
    }
    wall = interleaved({name: timed(name, work) for name, work in contestants.items()}, REPEATS)
    true = exact(passage, query)
    recall = {name: share_found(places[: len(true)], true) for name, places in found.items()}
    busy = {name: float(np.median(seconds)) for name, seconds in cpu.items()}
    rows = [
        [name, wall[name], wall[FLAT] / wall[name], busy[name], busy[FLAT] / busy[name], recall[name]] for name in wall
    ]
    note = (
        f"The best {DEPTH} of {PASSAGES:,} passages for {QUERIES:,} queries, {DIMS} dimensions, {THREADS} threads, "
        f"building of the index included. Vectors lie in {CENTRES:,} clusters around a common direction, later "
        f"dimensions are smaller; recall against products in double precision for {SAMPLE} queries. "
        f"Median of {REPEATS} interleaved runs. "
        f"Eight-bit products by the processor: {'yes' if torch.cpu._is_vnni_supported() else 'no, by fp32'}."
    )
    header = ("", "seconds", "faster than flat ×", "CPU seconds", "CPU, flat / this", f"recall@{DEPTH}")
    values = {"seconds": wall, "cpu_seconds": busy, "recall": recall, "ratio": wall[FLAT] / wall[OURS]}
    table = Table("Mining hard negatives", header, rows, note)
    return Result("mining", [table], values, versions(("numpy", "torch", "faiss-cpu")))


def ours(passage: Floats, query: Floats, products: int) -> Found:
    """Places found [N, R] where all passages are looked at up to so many ``products``."""
    from components.training import mining

    before, mining.EVERY = mining.EVERY, products
    try:
        index = mining.Index(passage, query, DEPTH)
    finally:
        mining.EVERY = before
    parts = [index.search(query[start : start + index.stretch])[1] for start in range(0, len(query), index.stretch)]
    return np.concatenate(parts)


def flat(passage: Floats, query: Floats) -> Found:
    """faiss looking at every passage."""
    import faiss

    index = faiss.IndexFlatIP(DIMS)
    index.add(passage)
    return searched(index, query)


def inverted(passage: Floats, query: Floats) -> Found:
    """faiss looking at the passages of the nearest lists."""
    import faiss

    lists = int(4 * np.sqrt(len(passage)))
    centroids = faiss.IndexFlatIP(DIMS)
    index = faiss.IndexIVFFlat(centroids, DIMS, lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = 24
    index.cp.max_points_per_centroid = 40
    index.train(passage)
    index.add(passage)
    return searched(index, query)


def searched(index: Any, query: Floats) -> Found:
    """Places of an index of faiss."""
    places: Found = index.search(query, DEPTH)[1]
    return places


def exact(passage: Floats, query: Floats) -> Found:
    """The best passages of the first SAMPLE queries, in double precision."""
    true = np.empty((min(SAMPLE, len(query)), DEPTH), np.int64)
    whole = passage.astype(np.float64)
    for start in range(0, len(true), 50):
        scores = query[start : start + 50].astype(np.float64) @ whole.T
        true[start : start + 50] = np.argpartition(-scores, DEPTH - 1, axis=1)[:, :DEPTH]
    return true


def share_found(found: Found, true: Found) -> float:
    """Share of the true best that were found."""
    return float(
        np.mean([len(np.intersect1d(ours, best)) for ours, best in zip(found, true, strict=True)]) / true.shape[1]
    )
