"""Where rows of different shards meet: deduplication as phases over files, each a function of one task's number.

A task reads files of earlier phases and writes one; nothing else passes between tasks, so that they may run in one
process, in many, or on many machines. A row is known by its address (shard number and row), and by its rank, which
depends on its content alone. `README.md` draws the phases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.core import storage
from components.core.exchange import Rounds, read_partition, write_exchange
from components.core.execute import map_ordered
from components.core.fingerprint import digest_json
from components.core.manifest import Dataset, Shard
from components.core.progress import Progress
from components.core.textnorm import normalise_keys
from components.filter import duplicates
from components.filter.judgement import read_judgement
from components.filter.minhash import mix
from components.filter.normalise import clean_column
from components.filter.params import NearDuplicateParams
from components.filter.shuffle_plan import ShufflePlan
from components.filter.verdict import KEPT

ROW_BITS = 32  # of an address; the bits above them number the shard
ROW_MASK = np.uint64((1 << ROW_BITS) - 1)

Ids = NDArray[np.uint64]
Cosines = NDArray[np.float32]


def _schema(*names: str) -> pa.Schema:
    return pa.schema([(name, pa.uint64()) for name in names])


KEYS = _schema("kind", "left", "right", "rank", "address", "id")
BANDS = _schema("hash", "rank", "address")
EDGES = _schema("a", "b")
REQUESTS = _schema("partition", "address")
NODES = _schema("address", "id", "rank", "left", "right")
for _side in ("left_text", "right_text"):
    NODES = NODES.append(pa.field(_side, pa.large_string()))
VERIFIED = _schema("a", "b", "rank_a", "rank_b", "id_a", "id_b")
# A row that goes, the id of the row that survives in its place, and of the row that it was found to be like: the
# survivor itself, unless others lie between them; and the cosine with that row, where a model found it.
LOSERS = _schema("address", "survivor", "like").append(pa.field("cosine", pa.float32()))


@dataclass(frozen=True)
class Shuffle:
    """What every task of every phase needs to know. Files lie in `area`, named by `fingerprint`, phase and number."""

    area: str
    fingerprint: str
    judge_fingerprint: str
    ingest_uri: str
    ingest_digest: str
    plan: ShufflePlan
    near: NearDuplicateParams
    semantic_partitions: int = 0  # parts of the search for semantic duplicates; 0 without one

    @property
    def shards(self) -> list[Shard]:
        """The shards of the input, in the order of their numbers."""
        return self.ingest.shards

    @property
    def ingest(self) -> Dataset:
        """The input; its manifest is read once a process."""
        return _open(self.ingest_uri, self.ingest_digest)

    def judgement(self, number: int) -> str:
        """Where the judgement of a shard waits: it depends on that shard alone."""
        shard = self.shards[number]
        name = f"{shard.name}-{digest_json([self.judge_fingerprint, shard.sha256])[:16]}.arrow"
        return storage.join(self.area, "judge", name)

    def phase(self, phase: str) -> str:
        """Where the files of a phase are."""
        return storage.join(self.area, self.fingerprint[:16], phase)

    def place(self, phase: str, number: int) -> str:
        """Where a task's file is."""
        return storage.join(self.phase(phase), f"{number:05d}")

    def places(self, phase: str, count: int) -> list[str]:
        """The files of all tasks of a phase, in order."""
        return [self.place(phase, number) for number in range(count)]

    def run(
        self,
        phase: str,
        work: Callable[[Shuffle, int], None],
        count: int,
        workers: int,
        progress: Callable[[str, float, str], Progress],
    ) -> None:
        """Do the tasks 0 ≤ number < `count` of a phase that have no file yet; `work` writes `place(phase, number)`."""
        done = {info.uri for info in storage.list_files(self.phase(phase))}
        pending = [number for number in range(count) if self.place(phase, number) not in done]
        with progress(phase, count, "tasks") as bar:
            bar.advance(count - len(pending))
            for _ in map_ordered(partial(work, self), pending, min(workers, max(1, len(pending)))):
                bar.advance()

    @contextmanager
    def write(self, phase: str, number: int, schema: pa.Schema, partitions: int) -> Iterator[Rounds]:
        """The exchange file of a task, to be filled."""
        with write_exchange(self.place(phase, number), schema, partitions, self.plan.round_bytes) as rounds:
            yield rounds

    def write_losers(
        self, phase: str, number: int, address: Ids, survivor: Ids, like: Ids, cosine: Cosines | None = None
    ) -> None:
        """Write the rows that a task found to go, as LOSERS, for the groups that their shards belong to."""
        cosines = pa.nulls(len(address), pa.float32()) if cosine is None else pa.array(cosine)
        table = pa.table([*map(pa.array, (address, survivor, like)), cosines], schema=LOSERS)
        with self.write(phase, number, LOSERS, self.plan.groups) as rounds:
            rounds.add(table, self.group_of(address))

    def dropped(self, group: int) -> Ids:
        """The sorted addresses of a group's rows that exact and near-duplicates have cost."""
        phases = [("exact", self.plan.key_partitions)] + [("near", 1)] * (self.near.threshold is not None)
        return np.sort(np.concatenate([self.losers(*phase, group)["address"].to_numpy() for phase in phases]))

    def losers(self, phase: str, count: int, group: int) -> pa.Table:
        """The rows of a group's shards that `count` tasks of a phase found to go, as LOSERS, sorted by address."""
        return read_partition(self.places(phase, count), group, LOSERS).sort_by("address")

    def group_of(self, address: Ids) -> NDArray[np.int64]:
        """The group of each address [N]."""
        return (address >> np.uint64(ROW_BITS)).astype(np.int64) * self.plan.groups // self.plan.shards


@lru_cache(maxsize=1)
def _open(uri: str, digest: str) -> Dataset:
    return Dataset.open(uri)


def addresses(shard: int, rows: int) -> Ids:
    """The addresses of the rows of a shard, uint64 [rows]."""
    return np.arange(rows, dtype=np.uint64) + np.uint64(shard << ROW_BITS)


def find_exact(shuffle: Shuffle, workers: int, progress: Callable[[str, float, str], Progress]) -> None:
    """The phases that find exact duplicates: `exact` holds the losers."""
    plan = shuffle.plan
    shuffle.run("keys", _keys, plan.groups, workers, progress)
    shuffle.run("exact", _exact, plan.key_partitions, workers, progress)


def find_near(shuffle: Shuffle, workers: int, progress: Callable[[str, float, str], Progress]) -> None:
    """The phases that find near-duplicates among the rows that are no exact ones: `near` holds the losers."""
    plan = shuffle.plan
    shuffle.run("bands", _bands, plan.groups, workers, progress)
    shuffle.run("edges", _edges, plan.band_partitions, workers, progress)
    shuffle.run("requests", _requests, plan.edge_partitions, workers, progress)
    shuffle.run("nodes", _nodes, plan.groups, workers, progress)
    shuffle.run("verified", _verified, plan.edge_partitions, workers, progress)
    shuffle.run("near", _near, 1, workers, progress)


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
    with shuffle.write("verified", partition, VERIFIED, 1) as rounds:
        rounds.add(_table(VERIFIED, *columns), np.zeros(len(one), np.int64))


def _texts(column: pa.Array, known: Ids, places: NDArray[np.int64], keys: Ids) -> list[str]:
    texts: list[str] = column.take(pa.array(places[np.searchsorted(known, keys)])).to_pylist()
    return texts


def _near(shuffle: Shuffle, number: int) -> None:
    """Of each cluster of verified pairs all rows but one; the only task of its phase."""
    files = shuffle.places("verified", shuffle.plan.edge_partitions)
    table = read_partition(files, 0, VERIFIED)
    ends = np.concatenate(_columns(table, "a", "b"))
    address, first, node = np.unique(ends, return_index=True, return_inverse=True)
    del ends
    rank = np.concatenate(_columns(table, "rank_a", "rank_b"))[first]
    ids = np.concatenate(_columns(table, "id_a", "id_b"))[first]
    a, b = node[: len(table)], node[len(table) :]
    del table
    survivors = duplicates.survivors_of(a, b, rank, shuffle.near.max_cluster)
    lost = np.flatnonzero(survivors != np.arange(len(survivors)))
    like = duplicates.likes(a, b, survivors, rank)
    shuffle.write_losers("near", number, address[lost], ids[survivors[lost]], ids[like[lost]])


def _columns(table: pa.Table, *names: str) -> list[Ids]:
    return [table[name].to_numpy() for name in names]


def _table(schema: pa.Schema, *columns: Ids) -> pa.Table:
    return pa.table([pa.array(column) for column in columns], schema=schema)


def partition_of(hashes: Ids, partitions: int) -> NDArray[np.int64]:
    """By the upper bits of a hash, so that its lower ones stay as good inside a partition."""
    return ((hashes >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def among(values: Ids, ordered: Ids) -> NDArray[np.bool_]:
    """Which values are in a sorted array."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values)
