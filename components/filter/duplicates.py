"""Duplicates: exact ones by key, near ones by banded MinHash with every edge verified. One row of each survives.

Two rows are near-duplicates if they are of one task (and one form, where `meta` names forms) and the Jaccard
similarity of both their sides reaches the threshold. One equal side is not enough: two queries for one passage, or
one question with two answers, are different pairs. The survivor is chosen by content, never by order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.core.textnorm import text_id
from components.filter.shingles import Unit, jaccard, shingle_sets
from components.filter.texts import SAMPLE_CHARACTERS

# In a band's bucket of up to this many rows all meet; in a larger one each meets the first row, which all of them are
# likely to be like, and the next few: a bucket of m rows gives at most (1 + _NEIGHBOURS)·m edges instead of m².
_ALL_MEET = 17
_NEIGHBOURS = 4
_BLOCK = 1 << 18  # records of a block of candidates: at most 17 times as many pairs, 70 MB
_BLOCK_PAIRS = 1 << 14  # pairs of texts whose shingle sets are in memory at once: 0.5 GB if none is in two pairs

Ids = NDArray[np.uint64]
Rows = NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.uint64)


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


def candidates(hashes: Ids, ranks: Ids, rows: Ids) -> Iterator[tuple[Ids, Ids]]:
    """Pairs of rows (a < b) that share a band hash, in blocks; in a large bucket only near neighbours in rank order.

    Each of [M] records says that the row with this address (`rows`) and rank has this band hash. A pair comes once in a
    block, and may come again in another.
    """
    order = np.argsort(hashes)
    ordered = hashes[order]
    same = ordered[1:] == ordered[:-1]
    shared = np.zeros(len(order), bool)
    shared[1:] |= same
    shared[:-1] |= same
    order = order[shared]
    hashes, ranks, rows = hashes[order], ranks[order], rows[order]
    order = np.lexsort((rows, ranks, hashes))
    hashes, rows = hashes[order], rows[order]
    first = np.ones(len(order), bool)
    first[1:] = hashes[1:] != hashes[:-1]
    index = np.arange(len(order))
    starts = np.maximum.accumulate(np.where(first, index, 0))
    sizes = np.diff(np.append(np.flatnonzero(first), len(order)))
    reach = np.where(np.repeat(sizes, sizes) > _ALL_MEET, _NEIGHBOURS, _ALL_MEET)
    for block in range(0, len(order), _BLOCK):
        inside = index[block : block + _BLOCK]
        depth, most = inside - starts[inside], reach[inside]
        far = inside[depth > most]
        lower, upper = [starts[far]], [far]
        for distance in range(1, min(_ALL_MEET, int(depth.max(initial=0))) + 1):
            near = inside[np.minimum(depth, most) >= distance]
            lower.append(near - distance)
            upper.append(near)
        yield distinct_pairs(rows[np.concatenate(lower)], rows[np.concatenate(upper)])


def distinct_pairs(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """Each unordered pair once, the smaller first, sorted."""
    nodes, codes = _pair_codes(a, b)
    codes = distinct(codes)
    count = max(len(nodes), 1)
    return nodes[codes // count], nodes[codes % count]


def distinct(values: NDArray[Number]) -> NDArray[Number]:
    """Each value once, sorted: np.unique, which hashes first, takes up to fifty times as long where most differ."""
    values = np.sort(values)
    first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return values[first]


def _pair_codes(a: Ids, b: Ids) -> tuple[Ids, Rows]:
    """The distinct ends of pairs, sorted, and a number [E] of each unordered pair: smaller end · count + larger end."""
    nodes = distinct(np.concatenate([distinct(a), distinct(b)]))
    one, other = np.searchsorted(nodes, a), np.searchsorted(nodes, b)
    return nodes, np.minimum(one, other) * len(nodes) + np.maximum(one, other)


def verified(
    keys: NDArray[np.uint64], texts: Callable[[Ids], list[str]], threshold: float, unit: Unit
) -> NDArray[np.bool_]:
    """Which pairs of keys [E, 2] are of texts whose Jaccard reaches `threshold`, bool [E].

    `texts` gives the normalised texts of sorted distinct keys. Equal keys need none. Every distinct pair is compared
    once, in blocks that hold the sets of some ten million characters.
    """
    result = np.ones(len(keys), bool)
    differs = np.flatnonzero(keys[:, 0] != keys[:, 1])
    if not len(differs):
        return result
    known, codes = _pair_codes(keys[differs, 0], keys[differs, 1])
    codes, pair_of = np.unique(codes, return_inverse=True)
    a, b = known[codes // len(known)], known[codes % len(known)]
    similar = np.zeros(len(a), bool)
    for start in range(0, len(a), _BLOCK_PAIRS):
        block = slice(start, start + _BLOCK_PAIRS)
        nodes, places = np.unique(np.concatenate([a[block], b[block]]), return_inverse=True)
        sets = shingle_sets([text[:SAMPLE_CHARACTERS] for text in texts(nodes)], unit)
        left, right = places[: len(places) // 2], places[len(places) // 2 :]
        # Jaccard cannot exceed the ratio of the sizes
        small, large = np.minimum(sets.sizes[left], sets.sizes[right]), np.maximum(sets.sizes[left], sets.sizes[right])
        possible = np.flatnonzero(small >= threshold * large)
        similar[start + possible] = jaccard(sets, left[possible], right[possible]) >= threshold
    result[differs] = similar[pair_of]
    return result


def survivors_of(a: Rows, b: Rows, ranks: Ids, max_cluster: int) -> Rows:
    """For each row [N] the survivor of its connected component under the edges (a[e], b[e]): the smallest rank.

    A component of more than `max_cluster` rows is not trusted to be one thing: there a row is dropped only for a
    surviving row that it shares an edge with, the one of smallest rank.
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
    low, high = low[inside], high[inside]
    by_low = np.argsort(low, kind="stable")
    high = high[by_low]
    nodes, starts, counts = np.unique(low[by_low], return_index=True, return_counts=True)
    for node, start, end in zip(nodes.tolist(), starts.tolist(), (starts + counts).tolist(), strict=True):
        if label[node] == node:
            others = high[start:end]
            label[others[label[others] == others]] = node
    survivors = np.empty(len(order), np.int64)
    survivors[order] = order[label]
    return survivors


def likes(a: Rows, b: Rows, survivors: Rows, ranks: Ids) -> Rows:
    """For each row [N] the row that it was verified to be like: its survivor if they share an edge, else the row of
    smallest rank that it shares one with; itself if there is none."""
    order = np.argsort(ranks, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    best = np.full(len(order), len(order))
    np.minimum.at(best, a, place[b])
    np.minimum.at(best, b, place[a])
    alone = best == len(order)
    like = np.where(alone, np.arange(len(order)), order[np.where(alone, 0, best)])
    for row, other in ((a, b), (b, a)):
        direct = survivors[row] == other
        like[row[direct]] = other[direct]
    return like
