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
VERIFIED_BYTES = 48  # address, rank and id of both rows
# Working memory of a task over the bytes that it has read: columns made contiguous, sort order, masks.
SORTING = 4
# Working memory of the components for each verified edge, everything included.
COMPONENT_BYTES = 128
# A task plans to fill this share of its budget; the rest is for what no partition can split: one bucket, one page.
FILL = 0.5
# What pairs of text were measured to have: candidate edges for each row (3 in module documentation, 0.3 in Chinese
# questions), of which this share is verified, and bytes of the first 2,000 characters of both sides.
EDGES_A_ROW = 3.0
VERIFIED_SHARE = 0.4
TEXT_BYTES_A_ROW = 1500


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
    room = budget * FILL
    keys, banded = rows * KEY_BYTES, rows * bands * BAND_BYTES
    edges = int(rows * EDGES_A_ROW) if bands else 0
    round_bytes = max(1, int(room / SORTING))
    groups = min(max(1, shards), _parts(max(keys, banded), round_bytes))
    key_partitions = _parts(keys * SORTING, room)
    band_partitions = _parts(banded * SORTING, room)
    edge_partitions = 1
    while _edge_task(rows, edges, edge_partitions) > room:
        edge_partitions += max(1, edge_partitions // 64)
    nodes = min(rows * edge_partitions, 2 * edges)
    return ShufflePlan(
        rows=rows,
        shards=shards,
        bands=bands,
        groups=groups,
        key_partitions=key_partitions,
        band_partitions=band_partitions,
        edge_partitions=edge_partitions,
        round_bytes=round_bytes,
        keys_shuffled=keys,
        bands_shuffled=banded,
        edges_shuffled=edges * EDGE_BYTES + nodes * 8 + int(edges * VERIFIED_SHARE) * VERIFIED_BYTES,
        texts_shuffled=nodes * (NODE_BYTES + TEXT_BYTES_A_ROW),
        map_task=SORTING * min(round_bytes, max(keys, banded)),
        key_task=ceil(keys * SORTING / key_partitions),
        band_task=ceil(banded * SORTING / band_partitions),
        edge_task=_edge_task(rows, edges, edge_partitions),
        components=int(edges * VERIFIED_SHARE) * COMPONENT_BYTES,
    )


def _parts(amount: float, room: float) -> int:
    return max(1, ceil(amount / room))


def _edge_task(rows: int, edges: int, partitions: int) -> int:
    mine = ceil(edges / partitions)
    return mine * EDGE_BYTES * SORTING + min(rows, 2 * mine) * 2 * (NODE_BYTES + TEXT_BYTES_A_ROW)
