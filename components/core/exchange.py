"""A shuffle by files: a map task writes one file with a part for each partition, a reduce task reads its part of every
file by ranged reads.

An exchange file is an Arrow file in which every `partitions` record batches, one for each partition in order, make a
round; its footer is the index. A writer ends a round when enough rows wait, so that memory is bounded by a round and
a partition of a file is as many ranged reads as it has rounds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core import storage
from components.core.execute import end_if_orphaned

_PARTITIONS = b"partitions"
# Of a remote file: what a footer takes, and may be read in vain around a partition.
_BLOCK_BYTES = 256 << 10


@dataclass
class Rounds:
    """Rows on their way into an exchange file."""

    sink: Any
    partitions: int
    round_bytes: int
    _waiting: list[tuple[pa.Table, NDArray[np.int64]]] = field(default_factory=list)
    _bytes: int = 0

    def add(self, table: pa.Table, partition: NDArray[np.int64]) -> None:
        """Add rows [N]; `partition` [N] says where each goes. Rows of a partition keep their order."""
        self._waiting.append((table, partition))
        self._bytes += table.nbytes
        if self._bytes >= self.round_bytes:
            self.flush()

    def flush(self) -> None:
        """End a round."""
        if not self._waiting:
            return
        table = pa.concat_tables([waiting for waiting, _ in self._waiting])
        partition = np.concatenate([waiting for _, waiting in self._waiting])
        self._waiting.clear()
        self._bytes = 0
        if self.partitions == 1:
            self.sink.write_table(table)  # every batch is a round
            return
        table = table.take(pa.array(np.argsort(partition, kind="stable"))).combine_chunks()
        ends = np.cumsum(np.bincount(partition, minlength=self.partitions))
        for start, end in zip([0, *ends.tolist()], ends.tolist(), strict=False):
            part = table.slice(start, end - start).to_batches()
            self.sink.write_batch(part[0] if part else _empty(table.schema))


@contextmanager
def write_exchange(uri: str, schema: pa.Schema, partitions: int, round_bytes: int) -> Iterator[Rounds]:
    """Write an exchange file: it is there once the block has ended without an error, whole, or not at all.

    A round of more than `round_bytes` bytes is written out; about three times that much memory is used.
    """
    marked = schema.with_metadata({_PARTITIONS: str(partitions)})
    with storage.open_write(uri) as file:
        with pa.ipc.new_file(file, marked) as sink:
            rounds = Rounds(sink, partitions, round_bytes)
            yield rounds
            rounds.flush()
        end_if_orphaned()


def read_partition(uris: Iterable[str], partition: int, schema: pa.Schema) -> pa.Table:
    """The rows of one partition in all these files, in the files' order, as a table of `schema`."""
    batches: list[pa.RecordBatch] = []
    for uri in uris:
        with storage.open_read(uri, _BLOCK_BYTES) as file, pa.ipc.open_file(pa.PythonFile(file)) as reader:
            partitions = int(reader.schema.metadata[_PARTITIONS])
            for index in range(partition, reader.num_record_batches, partitions):
                batches.append(reader.get_batch(index).replace_schema_metadata(None))
    return pa.Table.from_batches(batches, schema)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([pa.array([], field.type) for field in schema], schema=schema)
