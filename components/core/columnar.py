"""Rows of Parquet and Arrow IPC files, a batch at a time. A part that is damaged costs its own rows only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from components.core.carriers import Fault, Row, Span

BATCH_ROWS = 4096
# Rows that are decoded at a time hold about this many bytes, so that pages of HTML do not come by the thousand.
BATCH_BYTES = 4 << 20
ARROW_FILE_MAGIC = b"ARROW1"
# pyarrow reports damaged data as one of these; an OSError with an errno comes from the file system.
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)


def parquet_columns(file: BinaryIO) -> list[str] | None:
    """The names in the footer; None if it cannot be read."""
    reader = _open_parquet(file)
    return None if isinstance(reader, Fault) else list(reader.schema_arrow.names)


def arrow_columns(file: BinaryIO) -> list[str] | None:
    """The names in the schema; None if it cannot be read."""
    try:
        return list(_open_arrow(file).schema.names)
    except DAMAGE as error:
        _raise_system_error(error)
        return None


def parquet_spans(file: BinaryIO, columns: Sequence[str] | None, text_bytes: int) -> list[Span]:
    """Spans of row groups whose wanted columns hold at most `text_bytes` each, unless a single one holds more.

    Known from the footer; a file without a readable one is a single span.
    """
    reader = _open_parquet(file)
    if isinstance(reader, Fault):
        return [Span()]
    spans, first, size = [], 0, 0
    for group in range(reader.metadata.num_row_groups):
        group_bytes = _group_bytes(reader, group, columns)
        if size and size + group_bytes > text_bytes:
            spans.append(Span(first, group))
            first, size = group, 0
        size += group_bytes
    return [*spans, Span(first, None)]


def rows_before_group(file: BinaryIO, group: int) -> int:
    """The number of the first row of a row group."""
    metadata = pq.ParquetFile(file).metadata
    return sum(metadata.row_group(index).num_rows for index in range(group))


def read_parquet(file: BinaryIO, span: Span, columns: Sequence[str] | None, skip: int) -> Iterator[Row]:
    """Rows of the row groups [span.start, span.stop), numbered from 0, without the first `skip`.

    A row group that cannot be read gives a fault for each of its rows; a file without a readable footer gives one.
    """
    reader = _open_parquet(file)
    if isinstance(reader, Fault):
        yield 0, reader
        return
    there = [name for name in reader.schema_arrow.names if columns is None or name in columns]
    stop = reader.metadata.num_row_groups if span.stop is None else span.stop
    number = 0
    for group in range(span.start, stop):
        metadata = reader.metadata.row_group(group)
        # a damaged footer can name any number; what the whole file has bounds it
        end = number + min(metadata.num_rows, reader.metadata.num_rows)
        if end > skip:
            batch_rows = _batch_rows(_group_bytes(reader, group, there), metadata.num_rows)
            try:
                for batch in reader.iter_batches(batch_rows, row_groups=[group], columns=there, use_threads=False):
                    rows = _rows(batch)
                    yield from (each for each in enumerate(rows, number) if each[0] >= skip)
                    number += len(rows)
            except DAMAGE as error:
                _raise_system_error(error)
                fault = Fault("corrupt", f"row group {group} cannot be read ({_one_line(error)})", "")
                yield from ((each, fault) for each in range(max(number, skip), end))
        number = end


def read_arrow(file: BinaryIO, columns: Sequence[str] | None, skip: int) -> Iterator[Row]:
    """Rows of an Arrow IPC file or stream, without the first `skip`. One fault stands for what cannot be read."""
    number = 0
    try:
        names = _open_arrow(file).schema.names
        fields = [index for index, name in enumerate(names) if columns is None or name in columns]
        file.seek(0)
        for batch in _arrow_batches(_open_arrow(file, fields)):
            _check(batch)
            end = number + len(batch)
            step = _batch_rows(batch.nbytes, len(batch))
            for first in range(max(number, skip), end, step):
                rows = _rows(batch.slice(first - number, min(step, end - first)))
                yield from enumerate(rows, first)
            number = end
    except DAMAGE as error:
        _raise_system_error(error)
        yield max(number, skip), Fault("corrupt", f"the Arrow data cannot be read on ({_one_line(error)})", "")


def _open_parquet(file: BinaryIO) -> pq.ParquetFile | Fault:
    try:
        # pages come through a buffer instead of whole column chunks, which can be as large as the file
        reader = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
        # names need not be UTF-8
        _ = reader.schema_arrow.names, [reader.schema.column(index).path for index in range(len(reader.schema))]
        return reader
    except DAMAGE as error:
        _raise_system_error(error)
        return Fault("corrupt", f"not a readable .parquet file ({_one_line(error)})", "")


def _open_arrow(file: BinaryIO, fields: Sequence[int] = ()) -> Any:
    options = pa.ipc.IpcReadOptions(included_fields=list(fields), use_threads=False)
    is_file = file.read(len(ARROW_FILE_MAGIC)) == ARROW_FILE_MAGIC
    file.seek(0)
    return pa.ipc.open_file(file, options=options) if is_file else pa.ipc.open_stream(file, options=options)


def _arrow_batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        return (reader.get_batch(index) for index in range(reader.num_record_batches))
    return iter(reader)


def _check(batch: pa.RecordBatch) -> None:
    """Raise ArrowInvalid for a batch whose offsets lead outside of it; using one would end the process.

    Strings are looked at as bytes: one that is not UTF-8 is a broken row, not a broken file.
    """
    for column in batch.columns:
        kind = column.type
        as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(kind)
        if pa.types.is_list(kind) and kind.value_type == pa.string():
            as_bytes = pa.list_(pa.binary())
        column.validate()
        (column if as_bytes is None else column.view(as_bytes)).validate(full=True)


def _group_bytes(reader: pq.ParquetFile, group: int, columns: Sequence[str] | None) -> int:
    """Bytes of the wanted columns of a row group, before compression."""
    paths = [reader.schema.column(index).path for index in range(len(reader.schema))]
    return sum(
        reader.metadata.row_group(group).column(index).total_uncompressed_size
        for index, path in enumerate(paths)
        if columns is None or path.partition(".")[0] in columns
    )


def _batch_rows(size: int, rows: int) -> int:
    return max(1, min(BATCH_ROWS, BATCH_BYTES * rows // max(size, 1)))


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any] | Fault]:
    try:
        return cast("list[dict[str, Any] | Fault]", batch.to_pylist())
    except UnicodeDecodeError:
        return [_row(batch.slice(index, 1)) for index in range(len(batch))]


def _row(batch: pa.RecordBatch) -> dict[str, Any] | Fault:
    try:
        return cast("dict[str, Any]", batch.to_pylist()[0])
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", "not UTF-8", error.object.decode("utf-8", "replace"))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _raise_system_error(error: Exception) -> None:
    if isinstance(error, OSError) and error.errno:
        raise error
