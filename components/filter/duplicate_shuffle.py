"""The phases that find exact and near-duplicates: by the rows' keys, then by their bands, verified by texts."""

from __future__ import annotations

from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.core.crew import Crew
from components.core.exchange import read_partition
from components.core.textnorm import normalise_keys
from components.filter import duplicates
from components.filter.cluster_shuffle import PAIRS, write_cluster_losers
from components.filter.judgement import read_judgement
from components.filter.minhash import mix
from components.filter.normalise import clean_column
from components.filter.reasons import KEPT
from components.filter.shuffle import ROW_BITS, ROW_MASK, Ids, Shuffle, addresses, among, id_schema, partition_of

KEYS = id_schema("kind", "left", "right", "rank", "address", "id")
BANDS = id_schema("hash", "rank", "address")
EDGES = id_schema("a", "b")
REQUESTS = id_schema("partition", "address")
NODES = id_schema("address", "id", "rank", "left", "right")
for _side in ("left_text", "right_text"):
    NODES = NODES.append(pa.field(_side, pa.large_string()))


def find_exact(shuffle: Shuffle, crew: Crew) -> None:
    """The phases that find exact duplicates: `exact` holds the losers."""
    plan = shuffle.plan
    shuffle.run("keys", _keys, plan.groups, crew)
    shuffle.run("exact", _exact, plan.key_partitions, crew)


def find_near(shuffle: Shuffle, crew: Crew) -> None:
    """The phases that find near-duplicates among the rows that are no exact ones: `near` holds the losers."""
    plan = shuffle.plan
    shuffle.run("bands", _bands, plan.groups, crew)
    shuffle.run("edges", _edges, plan.band_partitions, crew)
    shuffle.run("requests", _requests, plan.edge_partitions, crew)
    shuffle.run("nodes", _nodes, plan.groups, crew)
    shuffle.run("verified", _verified, plan.edge_partitions, crew)
    shuffle.run("near", _near, 1, crew)


def _keys(shuffle: Shuffle, group: int) -> None:
    """Keys of the rows that the row rules kept, by hash."""
    partitions = shuffle.plan.key_partitions
    with shuffle.write("keys", group, KEYS, partitions) as rounds:
        for shard in shuffle.plan.shards_of(group):
            columns = ("id", "code", "kind", "rank", "symmetric", "left", "right")
            table = read_judgement(shuffle.judgement(shard), columns)
            table = table.append_column("address", pa.array(addresses(shard, len(table))))
            table = table.filter(pc.equal(table["code"], KEPT))
            kind, rank, address, ids = _columns(table, "kind", "rank", "address", "id")
            left, right = _columns(table, "left", "right")
            left, right = duplicates.pair_keys(left, right, table["symmetric"].to_numpy())
            partition = partition_of(mix(mix(left + kind) + right), partitions)
            rounds.add(_table(KEYS, kind, left, right, rank, address, ids), partition)


def _exact(shuffle: Shuffle, partition: int) -> None:
    """Of rows with equal keys all but one."""
    table = read_partition(shuffle.places("keys", shuffle.plan.groups), partition, KEYS)
    kind, left, right, rank, address, ids = _columns(table, *KEYS.names)
    del table
    survivors = duplicates.exact_duplicates(kind, left, right, rank)
    lost = np.flatnonzero(survivors != np.arange(len(survivors)))
    survivor = ids[survivors[lost]]
    shuffle.write_losers("exact", partition, address[lost], survivor, survivor)


def _bands(shuffle: Shuffle, group: int) -> None:
    """Band hashes of the rows that are still kept, by hash."""
    partitions = shuffle.plan.band_partitions
    lost = shuffle.losers("exact", shuffle.plan.key_partitions, group)["address"].to_numpy()
    with shuffle.write("bands", group, BANDS, partitions) as rounds:
        for shard in shuffle.plan.shards_of(group):
            table = read_judgement(shuffle.judgement(shard), ("code", "kind", "rank", "bands"))
            address = addresses(shard, len(table))
            kept = np.equal(table["code"].to_numpy(), KEPT) & ~among(address, lost)
            kind, rank = (column[kept] for column in _columns(table, "kind", "rank"))
            bands = [name for name in table.column_names if name.startswith("band_")]
            for band, name in enumerate(bands):
                hashes = mix(table[name].to_numpy()[kept] + kind + np.uint64(band))
                rounds.add(_table(BANDS, hashes, rank, address[kept]), partition_of(hashes, partitions))


def _edges(shuffle: Shuffle, partition: int) -> None:
    """Pairs of rows that share a band, by pair."""
    table = read_partition(shuffle.places("bands", shuffle.plan.groups), partition, BANDS)
    hashes, rank, address = _columns(table, *BANDS.names)
    del table
    partitions = shuffle.plan.edge_partitions
    with shuffle.write("edges", partition, EDGES, partitions) as rounds:
        for a, b in duplicates.candidates(hashes, rank, address):
            rounds.add(_table(EDGES, a, b), partition_of(mix(mix(a) + b), partitions))


def _read_edges(shuffle: Shuffle, partition: int) -> tuple[Ids, Ids]:
    table = read_partition(shuffle.places("edges", shuffle.plan.band_partitions), partition, EDGES)
    return duplicates.distinct_pairs(*_columns(table, "a", "b"))


def _requests(shuffle: Shuffle, partition: int) -> None:
    """The rows whose texts a partition of pairs needs, by group."""
    address = duplicates.distinct(np.concatenate(_read_edges(shuffle, partition)))
    with shuffle.write("requests", partition, REQUESTS, shuffle.plan.groups) as rounds:
        origin = np.full(len(address), partition, np.uint64)
        rounds.add(_table(REQUESTS, origin, address), shuffle.group_of(address))


def _nodes(shuffle: Shuffle, group: int) -> None:
    """The rows that were asked for, with their texts as normalised, by the partition of pairs that asked."""
    partitions = shuffle.plan.edge_partitions
    asked = read_partition(shuffle.places("requests", partitions), group, REQUESTS)
    partition, address = _columns(asked, *REQUESTS.names)
    order = np.argsort(address, kind="stable")
    address, origin = address[order], partition[order].astype(np.int64)
    with shuffle.write("nodes", group, NODES, partitions) as rounds:
        for shard in shuffle.plan.shards_of(group):
            first, last = np.searchsorted(address, [shard << ROW_BITS, (shard + 1) << ROW_BITS])
            if first < last:
                mine = origin[first:last]
                rounds.add(_shard_nodes(shuffle, shard, address[first:last], mine), mine)


def _shard_nodes(shuffle: Shuffle, shard: int, address: Ids, partition: NDArray[np.int64]) -> pa.Table:
    """Rows of one shard as NODES; of texts with one key, the first in a partition is given and the others are null."""
    rows, row = np.unique((address & ROW_MASK).astype(np.int64), return_inverse=True)
    judged = read_judgement(shuffle.judgement(shard), ("id", "rank", "left", "right")).take(rows)
    table = shuffle.ingest.read_shard(shuffle.shards[shard], ("text", "text_pos", "text_pair"), verify=False).take(rows)
    ids, rank, *sides = (column[row] for column in _columns(judged, "id", "rank", "left", "right"))
    columns = [pa.array(column) for column in (address, ids, rank, *sides)]
    for key, texts in zip(sides, (table["text"], pc.coalesce(table["text_pos"], table["text_pair"])), strict=True):
        _, first = np.unique(np.stack([partition.astype(np.uint64), key]), axis=1, return_index=True)
        given = np.zeros(len(key), bool)
        given[first] = True
        needed = np.unique(row[first])
        keys = normalise_keys(clean_column(texts.take(needed)).to_pylist())
        place = np.searchsorted(needed, row)
        found = pa.array(keys, pa.large_string()).take(pa.array(np.where(given, place, 0), mask=~given))
        columns.append(found)
    return pa.table(columns, schema=NODES)


def _verified(shuffle: Shuffle, partition: int) -> None:
    """The pairs whose sides both reach the threshold."""
    a, b = _read_edges(shuffle, partition)
    nodes = read_partition(shuffle.places("nodes", shuffle.plan.groups), partition, NODES)
    nodes = nodes.take(np.argsort(nodes["address"].to_numpy(), kind="stable"))
    address, ids, rank = _columns(nodes, "address", "id", "rank")
    one, other = np.searchsorted(address, a), np.searchsorted(address, b)
    threshold, unit = shuffle.near.threshold or 0, shuffle.near.shingles
    for side in ("left", "right"):
        key = nodes[side].to_numpy()
        given = np.flatnonzero(nodes[f"{side}_text"].is_valid().to_numpy())
        known, first = np.unique(key[given], return_index=True)
        lookup = partial(_texts, nodes[f"{side}_text"].combine_chunks(), known, given[first])
        similar = duplicates.verified(np.stack([key[one], key[other]], axis=1), lookup, threshold, unit)
        one, other = one[similar], other[similar]
    columns = (address[one], address[other], rank[one], rank[other], ids[one], ids[other])
    with shuffle.write("verified", partition, PAIRS, 1) as rounds:
        rounds.add(_table(PAIRS, *columns), np.zeros(len(one), np.int64))


def _texts(column: pa.Array, known: Ids, places: NDArray[np.int64], keys: Ids) -> list[str]:
    texts: list[str] = column.take(pa.array(places[np.searchsorted(known, keys)])).to_pylist()
    return texts


def _near(shuffle: Shuffle, number: int) -> None:
    """Of each cluster of verified pairs all rows but one; the only task of its phase."""
    files = shuffle.places("verified", shuffle.plan.edge_partitions)
    write_cluster_losers(shuffle, "near", number, files, PAIRS, shuffle.near.max_cluster)


def _columns(table: pa.Table, *names: str) -> list[Ids]:
    return [table[name].to_numpy() for name in names]


def _table(schema: pa.Schema, *columns: Ids) -> pa.Table:
    return pa.table([pa.array(column) for column in columns], schema=schema)
