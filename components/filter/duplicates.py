"""Duplicates: exact ones by key, near ones by banded MinHash with every edge verified. One row of each survives.

Two rows are near-duplicates if they are of one task (and one form, where `meta` names forms) and the Jaccard
similarity of both their sides reaches the threshold. One equal side is not enough: two queries for one passage, or
one question with two answers, are different pairs. The survivor is chosen by content, never by order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.core.textnorm import text_id
from components.filter.minhash import mix
from components.filter.shingles import jaccard, shingle_sets
from components.filter.texts import SAMPLE_CHARACTERS

# In a band's bucket each row meets the first row and this many after it (all of them in a bucket of up to one more):
# a bucket of m rows gives at most (1 + _NEIGHBOURS)·m edges instead of m².
_NEIGHBOURS = 16

Ids = NDArray[np.uint64]
Rows = NDArray[np.int64]
Texts = Callable[[Rows, int], list[str]]


def row_kinds(table: pa.Table) -> Ids:
    """What a row may be a duplicate of: a hash of its task and of the form that `meta` may name, uint64 [N]."""
    forms = pc.struct_field(pc.extract_regex(table["meta"], r'"form":"(?P<form>[^"]*)"'), "form")
    kinds = zip(table["task"].to_pylist(), forms.to_pylist(), strict=True)
    return np.fromiter((text_id(f"{task}\x1f{form or ''}") for task, form in kinds), np.uint64, len(table))


def row_ranks(table: pa.Table) -> Ids:
    """The order in which rows survive, uint64 [N]: a hash of everything in a row, the same wherever it stands."""
    columns = ("source", "id", "label", "url", "meta", "text_neg")
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return np.fromiter((text_id(repr(row)) for row in rows), np.uint64, len(table))


def pair_keys(left: Ids, right: Ids, symmetric: NDArray[np.bool_]) -> tuple[Ids, Ids]:
    """Keys of both sides in an order that does not matter where a pair is symmetric (cosent)."""
    swap = symmetric & (left > right)
    return np.where(swap, right, left), np.where(swap, left, right)


def exact_duplicates(kinds: Ids, left: Ids, right: Ids, ranks: Ids) -> Rows:
    """For each row [N] the row that survives of those with its task and keys: itself if it is the one."""
    order = np.lexsort((ranks, right, left, kinds))
    first = np.zeros(len(order), bool)
    first[:1] = True
    for column in (kinds, left, right):
        first[1:] |= column[order[1:]] != column[order[:-1]]
    survivors = np.empty(len(order), np.int64)
    survivors[order] = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    return survivors


def near_duplicates(
    kinds: Ids, left: Ids, right: Ids, ranks: Ids, bands: Ids, texts: Texts, threshold: float, max_cluster: int
) -> Rows:
    """For each row [N] the row that survives of its cluster of near-duplicates: itself if it is the one.

    `left`, `right` are the keys of the sides, `bands` [B, N] hashes over both sides' signatures; `texts(rows, side)`
    gives the normalised texts of sorted rows on one side (0 or 1). Candidates share a band and are joined only if the
    exact Jaccard of both sides reaches `threshold`.
    """
    a, b = candidates(mix(bands + kinds), ranks)
    for own, side in ((left, 0), (right, 1)):
        differs = np.flatnonzero(own[a] != own[b])
        ends = np.concatenate([a[differs], b[differs]])
        _, first, node = np.unique(own[ends], return_index=True, return_inverse=True)
        rows = np.sort(ends[first])
        sets = shingle_sets([text[:SAMPLE_CHARACTERS] for text in texts(rows, side)])
        node = np.searchsorted(rows, ends[first])[node]
        similarity = np.ones(len(a))
        similarity[differs] = jaccard(sets, node[: len(differs)], node[len(differs) :])
        a, b = a[similarity >= threshold], b[similarity >= threshold]
    return survivors_of(a, b, ranks, max_cluster)


def candidates(bands: Ids, ranks: Ids) -> tuple[Rows, Rows]:
    """Pairs of rows that share a band hash, each once; in a large bucket only near neighbours in rank order."""
    count = bands.shape[1]
    edges = [np.empty(0, np.int64)]
    for hashes in bands:
        order = np.lexsort((ranks, hashes))
        ordered = hashes[order]
        same = ordered[1:] == ordered[:-1]
        starts = np.maximum.accumulate(np.where(np.concatenate([[True], ~same]), np.arange(count), 0))
        far = np.flatnonzero(np.arange(count) - starts > _NEIGHBOURS)
        pairs = [(order[starts[far]], order[far])]
        for distance in range(1, _NEIGHBOURS + 1):
            near = np.flatnonzero(ordered[distance:] == ordered[:-distance])
            if not len(near):
                break
            pairs.append((order[near], order[near + distance]))
        edges += [np.minimum(i, j) * count + np.maximum(i, j) for i, j in pairs]
    unique = np.unique(np.concatenate(edges))
    return unique // max(count, 1), unique % max(count, 1)


def survivors_of(a: Rows, b: Rows, ranks: Ids, max_cluster: int) -> Rows:
    """For each row [N] the survivor of its connected component under the edges (a[e], b[e]): the smallest rank.

    A component of more than `max_cluster` rows is not trusted to be one thing: there a row is dropped only for a
    surviving row that it shares an edge with.
    """
    order = np.argsort(ranks, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    low, high = np.minimum(place[a], place[b]), np.maximum(place[a], place[b])
    label = np.arange(len(order))
    while True:
        smallest = np.minimum(label[low], label[high])
        if np.array_equal(label[low], smallest) and np.array_equal(label[high], smallest):
            break
        for nodes in (label[low], label[high], low, high):
            np.minimum.at(label, nodes, smallest)
        while not np.array_equal(label, label[label]):
            label = label[label]
    oversized = np.bincount(label, minlength=len(label)) > max_cluster
    inside = oversized[label[low]]
    label = np.where(oversized[label], np.arange(len(label)), label)
    neighbours: dict[int, list[int]] = {}
    for one, other in zip(low[inside].tolist(), high[inside].tolist(), strict=True):
        neighbours.setdefault(one, []).append(other)
    for node in sorted(neighbours):
        if label[node] == node:
            for other in neighbours[node]:
                if label[other] == other:
                    label[other] = node
    survivors = np.empty(len(order), np.int64)
    survivors[order] = order[label]
    return survivors
