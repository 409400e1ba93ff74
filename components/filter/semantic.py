"""Semantic duplicates: rows that say the same to a model, in whatever words (SemDeDup, Abbas et al. 2023).

As there, rows are put into cells by k-means and compared inside their cell only. What is embedded is a pair: both
sides' vectors behind one another. Two rows of one kind are duplicates if the cosine of their left sides and that of
their right sides both reach the threshold; that of the pairs, their mean, then reaches it too, which is what cells and
neighbours are searched by. A row is compared in its two nearest cells, which finds 99.8 % of the duplicates that lie in
tight clusters, where one cell finds 95 %.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A cell has about this many rows; there are at most MAX_CELLS of them, learned from SAMPLE_A_CELL rows each.
CELL_ROWS = 4096
MAX_CELLS = 4096
SAMPLE_A_CELL = 64
ITERATIONS = 12
# Cells that a row is compared in: the nearest ones.
PROBES = 2
# A cell of more rows is halved, along the direction in which it is widest, until its parts are no larger.
MAX_COMPARED = 32768
# Rows that each row is held against: the nearest ones. Larger clusters are found through the rows they share.
NEIGHBOURS = 32
# What rounding may take from a cosine between the search and the check of both sides.
SLACK = 1e-4

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Ids = NDArray[np.uint64]


def pair_vectors(left: Floats, right: Floats) -> Floats:
    """Unit vectors [N, 2·D] of pairs from the unit vectors [N, D] of their sides; zero where a side has none."""
    pairs = np.concatenate([left, right], axis=1) * np.float32(np.sqrt(0.5))
    usable = np.logical_and.reduce([np.isfinite(pairs).all(axis=1), left.any(axis=1), right.any(axis=1)])
    return np.where(usable[:, None], pairs, np.float32(0))


def cell_count(rows: int) -> int:
    """How many cells so many rows are put into."""
    return min(MAX_CELLS, max(1, rows // CELL_ROWS))


def learn_cells(sample: Floats, count: int) -> Floats:
    """Centroids [count, D] of spherical k-means over a sample [S, D]: the same ones for the same sample in any order
    of threads."""
    import faiss

    if count <= 1 or len(sample) <= count:
        return np.zeros((1, sample.shape[1]), np.float32)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        kmeans = faiss.Kmeans(
            sample.shape[1],
            count,
            niter=ITERATIONS,
            seed=0,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=len(sample),
        )
        kmeans.train(np.ascontiguousarray(sample))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(kmeans.centroids, np.float32)


def nearest_cells(vectors: Floats, centroids: Floats) -> Rows:
    """The cells [N, PROBES] of each pair [N, D], or [N, 1] if there is one: the centroids of largest inner product."""
    import faiss

    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    cells: Rows = index.search(np.ascontiguousarray(vectors), min(PROBES, len(centroids)))[1].astype(np.int64)
    return cells


def similar_pairs(vectors: Floats, ranks: Ids, threshold: float) -> tuple[Rows, Rows, Floats]:
    """Pairs of rows (a, b) [E] of one cell [N, 2·D] whose sides both have a cosine of at least `threshold`.

    Gives the smaller of both cosines beside each pair. Every row is held against its nearest NEIGHBOURS, ties by rank.
    """
    usable = np.flatnonzero(vectors.any(axis=1))
    order = usable[np.argsort(ranks[usable], kind="stable")]
    if not len(order):
        return order, order, np.empty(0, np.float32)
    found = [_nearest_pairs(vectors, part, threshold) for part in _parts(vectors, order)]
    a, b = (np.concatenate(ends) for ends in zip(*found, strict=True))
    cosine = np.minimum(*_side_cosines(vectors, a, b))
    kept = cosine >= np.float32(threshold)
    return a[kept], b[kept], cosine[kept]


def _parts(vectors: Floats, rows: Rows) -> list[Rows]:
    """Rows in parts of at most MAX_COMPARED, each in the given order."""
    if len(rows) <= MAX_COMPARED:
        return [rows]
    centred = vectors[rows] - vectors[rows].mean(axis=0)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    upper = np.zeros(len(rows), bool)
    upper[np.argsort(centred @ axis, kind="stable")[len(rows) // 2 :]] = True
    return _parts(vectors, rows[~upper]) + _parts(vectors, rows[upper])


def _nearest_pairs(vectors: Floats, rows: Rows, threshold: float) -> tuple[Rows, Rows]:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    part = np.ascontiguousarray(vectors[rows])
    index.add(part)
    cosines, places = index.search(part, min(NEIGHBOURS + 1, len(rows)))
    row = np.repeat(np.arange(len(rows)), places.shape[1])
    place, near = places.ravel(), cosines.ravel() >= threshold - SLACK
    chosen = near & (place != row) & (place >= 0)
    low, high = np.minimum(row, place)[chosen], np.maximum(row, place)[chosen]
    pairs = np.unique(low * len(rows) + high)
    return rows[pairs // max(len(rows), 1)], rows[pairs % max(len(rows), 1)]


def _side_cosines(vectors: Floats, a: Rows, b: Rows) -> tuple[Floats, Floats]:
    """Cosines [E] of the left and of the right sides of pairs of rows."""
    half = vectors.shape[1] // 2
    left, right = np.empty(len(a), np.float32), np.empty(len(a), np.float32)
    for start in range(0, len(a), CELL_ROWS):
        block = slice(start, start + CELL_ROWS)
        products = vectors[a[block]] * vectors[b[block]] * np.float32(2)
        left[block], right[block] = products[:, :half].sum(axis=1), products[:, half:].sum(axis=1)
    return left, right
