"""Where rows of different shards meet: phases over files, each a function of one task's number.

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
from numpy.typing import NDArray

from components.core import storage
from components.core.crew import Crew
from components.core.exchange import Rounds, read_partition, write_exchange
from components.core.fingerprint import digest_json
from components.core.manifest import Dataset, Shard
from components.filter.params import NearDuplicateParams
from components.filter.shuffle_plan import ShufflePlan

ROW_BITS = 32  # of an address; the bits above them number the shard
ROW_MASK = np.uint64((1 << ROW_BITS) - 1)

Ids = NDArray[np.uint64]
Cosines = NDArray[np.float32]


def id_schema(*names: str) -> pa.Schema:
    return pa.schema([(name, pa.uint64()) for name in names])


# A row that goes, the id of the row that survives in its place, and of the row that it was found to be like: the
# survivor itself, unless others lie between them; and the cosine with that row, where a model found it.
LOSERS = id_schema("address", "survivor", "like").append(pa.field("cosine", pa.float32()))


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
        crew: Crew,
        workers: int | None = None,
        wait: bool = True,
    ) -> None:
        """Do the tasks 0 ≤ number < `count` of a phase that have no file yet; `work` writes `place(phase, number)`."""
        crew.finish(phase, partial(work, self), self.places(phase, count), workers=workers, wait=wait)

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


def partition_of(hashes: Ids, partitions: int) -> NDArray[np.int64]:
    """By the upper bits of a hash, so that its lower ones stay as good inside a partition."""
    return ((hashes >> np.uint64(32)) * np.uint64(partitions) >> np.uint64(32)).astype(np.int64)


def among(values: Ids, ordered: Ids) -> NDArray[np.bool_]:
    """Which values are in a sorted array."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values)
