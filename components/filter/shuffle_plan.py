"""How deduplication is cut into tasks: a pure function of the number of rows and the memory of a task.

Nothing that the filter writes depends on it; only how many files lie between the phases, and how large they are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil

from components.filter.minhash import cut

# Bytes of a record as it is exchanged.
KEY_BYTES = 48  # kind, two keys, rank, address, id
BAND_BYTES = 24  # hash, rank, address
EDGE_BYTES = 16  # two addresses
NODE_BYTES = 40  # address, id, rank, two keys; the texts come on top
REQUEST_BYTES = 16  # address, partition that asks
VERIFIED_BYTES = 48  # address, rank and id of both rows
# Peak working memory over the bytes that a task has read or holds for a round, as measured: columns made contiguous,
# sort orders, masks (2.0 for keys, 3.4 for bands, 3 for a round, 2 for texts).
KEY_MEMORY, BAND_MEMORY, ROUND_MEMORY, TEXT_MEMORY = 2.5, 3.5, 3, 2
# Working memory of the clusters for each verified edge, everything included (147 as measured).
COMPONENT_BYTES = 160
# A task plans to fill this share of its budget; the rest is for what no partition can split: the rows of one bucket.
FILL = 0.4
# Groups of shards where memory asks for fewer: as many pods as a pipeline may have, and workers of any one machine.
GROUPS = 64
# What pairs of text were measured to have: candidate edges for each row (0.5 in module documentation, 0.004 in Chinese
# questions), of which this share is verified (0.16), and bytes of the first 2,000 characters of both sides (490).
EDGES_A_ROW = 1.0
VERIFIED_SHARE = 0.25
TEXT_BYTES_A_ROW = 1000


@dataclass(frozen=True)
class ShufflePlan:
    """Tasks of each phase, and what the shuffle costs when every row reaches it: an upper bound.

    `groups` tasks map shards, a contiguous run of them each; `key_partitions`, `band_partitions` and `edge_partitions`
    tasks reduce. `…_shuffled` are bytes written between phases, `…_task` the peak working memory in bytes of a task of
    that phase over and above its code, `components` that of the one task that finds clusters.
    """

    rows: int
    shards: int
    bands: int
    groups: int
    key_partitions: int
    band_partitions: int
    edge_partitions: int
    round_bytes: int
    keys_shuffled: int
    bands_shuffled: int
    edges_shuffled: int
    texts_shuffled: int
    map_task: int
    key_task: int
    band_task: int
    edge_task: int
    components: int

    @property
    def bytes_shuffled(self) -> int:
        """Bytes written between phases, all together."""
        return self.keys_shuffled + self.bands_shuffled + self.edges_shuffled + self.texts_shuffled

    @property
    def peak_task(self) -> int:
        """The largest working memory of any task but the one that finds clusters, in bytes."""
        return max(self.map_task, self.key_task, self.band_task, self.edge_task)

    def shards_of(self, group: int) -> range:
        """The numbers of the shards of a group."""
        return range(*(-(-self.shards * edge // self.groups) for edge in (group, group + 1)))

    def group_of(self, shard: int) -> int:
        """The group of a shard."""
        return shard * self.groups // self.shards

    def as_dict(self) -> dict[str, int]:
        """Every number by name."""
        return {**asdict(self), "bytes_shuffled": self.bytes_shuffled, "peak_task": self.peak_task}


def plan(rows: int, shards: int, threshold: float | None, budget: int) -> ShufflePlan:
    """Cut the deduplication of `rows` rows in `shards` shards into tasks of about `budget` bytes of memory.

    `threshold` is the Jaccard that both sides of near-duplicates reach; None plans for exact duplicates alone.
    """
    bands = 0 if threshold is None else cut(threshold, sides=2).count
    room = int(budget * FILL)
    keys, banded = rows * KEY_BYTES, rows * bands * BAND_BYTES
    edges = int(rows * EDGES_A_ROW) if bands else 0
    verified = int(edges * VERIFIED_SHARE)
    round_bytes = max(1, room // ROUND_MEMORY)
    key_partitions = _parts(keys * KEY_MEMORY, room // 2)  # twice as many: no other phase sees repeated rows
    band_partitions = _parts(banded * BAND_MEMORY, room)
    alone = _edge_task(rows, edges, 1) <= room
    # a pair of rows may bring both rows' texts into its partition
    edge_partitions = 1 if alone else _parts(edges * _edge_task(2, 1, 1), room)
    nodes = min(rows * edge_partitions, 2 * edges)
    return ShufflePlan(
        rows=rows,
        shards=shards,
        bands=bands,
        groups=min(max(1, shards), max(GROUPS, _parts(max(keys, banded), round_bytes))),
        key_partitions=key_partitions,
        band_partitions=band_partitions,
        edge_partitions=edge_partitions,
        round_bytes=round_bytes,
        keys_shuffled=keys,
        bands_shuffled=banded,
        edges_shuffled=edges * EDGE_BYTES + nodes * REQUEST_BYTES + verified * VERIFIED_BYTES,
        texts_shuffled=nodes * (NODE_BYTES + TEXT_BYTES_A_ROW),
        map_task=ROUND_MEMORY * min(round_bytes, max(keys, banded)),
        key_task=ceil(keys * KEY_MEMORY / key_partitions),
        band_task=ceil(banded * BAND_MEMORY / band_partitions),
        edge_task=_edge_task(rows, edges, edge_partitions),
        components=verified * COMPONENT_BYTES,
    )


def _parts(amount: float, room: int) -> int:
    return max(1, ceil(amount / room))


def _edge_task(rows: int, edges: int, partitions: int) -> int:
    mine = ceil(edges / partitions)
    return ceil(mine * EDGE_BYTES * BAND_MEMORY + min(rows, 2 * mine) * TEXT_MEMORY * (NODE_BYTES + TEXT_BYTES_A_ROW))
