"""The last phase of a search for duplicates: of each cluster of alike rows one survives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core.exchange import read_partition
from components.filter import duplicates
from components.filter.shuffle import Cosines, Shuffle, id_schema

# Rows that were found to be alike: addresses, ranks and ids of both.
PAIRS = id_schema("a", "b", "rank_a", "rank_b", "id_a", "id_b")
# The same, with the cosine that a model gives them.
PAIRS_WITH_COSINE = PAIRS.append(pa.field("cosine", pa.float32()))

Rows = NDArray[np.int64]


def write_cluster_losers(
    shuffle: Shuffle, phase: str, number: int, files: Sequence[str], schema: pa.Schema, max_cluster: int
) -> None:
    """Of each cluster of the pairs in `files` write all rows but one as the losers of a phase that has one task.

    `schema` is PAIRS or PAIRS_WITH_COSINE; with the latter a loser has the cosine with the row that it is like.
    """
    table = read_partition(files, 0, schema)
    found = {name: table[name].to_numpy() for name in schema.names}
    del table
    ends = np.concatenate([found.pop("a"), found.pop("b")])
    pairs = len(ends) // 2
    address, first, node = np.unique(ends, return_index=True, return_inverse=True)
    del ends
    rank = np.concatenate([found.pop("rank_a"), found.pop("rank_b")])[first]
    ids = np.concatenate([found.pop("id_a"), found.pop("id_b")])[first]
    a, b = node[:pairs], node[pairs:]
    survivors = duplicates.survivors_of(a, b, rank, max_cluster)
    lost = np.flatnonzero(survivors != np.arange(len(survivors)))
    like = duplicates.likes(a, b, survivors, rank)[lost]
    cosine = _cosine_of(a, b, found["cosine"], lost, like, len(address)) if "cosine" in found else None
    shuffle.write_losers(phase, number, address[lost], ids[survivors[lost]], ids[like], cosine)


def _cosine_of(a: Rows, b: Rows, cosine: Cosines, row: Rows, other: Rows, count: int) -> Cosines:
    """The cosine that stands beside each pair (row, other) of rows among the pairs (a, b); rows are below `count`."""
    keys = np.minimum(a, b) * count + np.maximum(a, b)
    order = np.argsort(keys, kind="stable")
    wanted = np.minimum(row, other) * count + np.maximum(row, other)
    return cosine[order[np.searchsorted(keys[order], wanted)]] if len(wanted) else np.empty(0, np.float32)
