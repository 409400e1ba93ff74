"""Rows of files, whatever carries them: JSON lines, CSV, TSV or Parquet, plain or compressed, on disk or in S3.

One reader a format; each yields (row number, row) with numbers from 0, a row being a dict by column, or a Fault if that
row alone is broken. A file that is broken as a whole (truncated, corrupt) raises InputError.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from components.core import storage
from components.core.errors import InputError
from components.core.zstd import ZstdReader

FORMATS = ("jsonl", "csv", "tsv", "parquet")
COMPRESSIONS = ("gz", "zst", "bz2")
BATCH_ROWS = 4096
# Texts can be long; the csv module's own limit is 128 KiB.
CELL_CHARACTERS = 1 << 27
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Carrier(NamedTuple):
    """How rows are carried: one of FORMATS, and one of COMPRESSIONS or none."""

    format: str
    compression: str | None


def carrier_of(uri: str) -> Carrier | None:
    """The carrier that a file's suffixes name, or None for a file that rows cannot be read from."""
    suffixes = uri.lower().rpartition("/")[2].split(".")[1:]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else None
    if not suffixes or suffixes[-1] not in FORMATS or (suffixes[-1] == "parquet" and compression):
        return None
    return Carrier(suffixes[-1], compression)


class Fault(NamedTuple):
    """A row that cannot be used: a reason to count by, what is wrong and would be right, and the row as it came.

    `kind`: "quarantined" if it is broken, "dropped" if it is sound but holds nothing to train on.
    """

    reason: str
    detail: str
    raw: str
    kind: str = "quarantined"


class Span(NamedTuple):
    """Consecutive rows of a file; `rows` None is all that follow, `byte` is where plain JSON lines are entered."""

    first: int = 0
    rows: int | None = None
    byte: int = 0


Row = tuple[int, dict[str, Any] | Fault]


def read_rows(uri: str, carrier: Carrier, span: Span, columns: Sequence[str] | None) -> Iterator[Row]:
    """Yield the rows of a span. Of Parquet only `columns` are read, as far as they are there (None: all of them).

    Memory holds a batch.

    Raises InputError, naming the file and the row before, if the file cannot be read on.
    """
    last = None
    with (
        _file_errors(uri, carrier, lambda: "" if last is None else f" after row {last}"),
        storage.open_read(uri) as file,
    ):
        if carrier.format == "jsonl":
            rows = _json_rows(file, carrier, span)
        elif carrier.format == "parquet":
            rows = _parquet_rows(file, span, columns)
        else:
            rows = _delimited_rows(file, carrier, span)
        for row in rows:
            last = row[0]
            yield row


def column_names(uri: str, carrier: Carrier) -> list[str] | None:
    """The columns that the header or schema names; None where each row names its own (JSON lines).

    Raises InputError for a file that cannot be read.
    """
    if carrier.format == "jsonl":
        return None
    with _file_errors(uri, carrier), storage.open_read(uri) as file:
        if carrier.format == "parquet":
            return list(pq.ParquetFile(file).schema_arrow.names)
        return next(_cells(file, carrier), [])


def split_rows(uri: str, carrier: Carrier, rows: int) -> list[Span]:
    """Spans of at most `rows` rows that cover a file. Reads it from end to end, of Parquet the footer alone."""
    with _file_errors(uri, carrier), storage.open_read(uri) as file:
        if carrier == Carrier("jsonl", None):
            return [Span(number * rows, rows, byte) for number, byte in enumerate(_line_starts(file, rows))]
        if carrier.format == "jsonl":
            total = sum(1 for _ in _unpacked(file, carrier))
        elif carrier.format == "parquet":
            total = pq.ParquetFile(file).metadata.num_rows
        else:
            total = sum(1 for _ in _cells(file, carrier)) - 1  # the header
    return [Span(first, min(rows, total - first)) for first in range(0, total, rows)]


def _json_rows(file: BinaryIO, carrier: Carrier, span: Span) -> Iterator[Row]:
    file.seek(span.byte)
    skip = 0 if span.byte else span.first
    lines = islice(_unpacked(file, carrier), skip, None if span.rows is None else skip + span.rows)
    for number, line in enumerate(lines, span.first):
        if not line.isspace():
            yield number, _json_object(line.removeprefix(BYTE_ORDER_MARK) if number == 0 else line)


def _json_object(line: bytes) -> dict[str, Any] | Fault:
    raw = line.decode("utf-8", "replace").rstrip()
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", f"byte {error.start} of the line is not UTF-8", raw)
    except (ValueError, RecursionError) as error:
        return Fault("not_json", f"not a JSON object: {error}", raw)
    if not isinstance(value, dict):
        return Fault("not_object", f"a JSON {type(value).__name__}, expected an object with columns as keys", raw)
    return value


def _delimited_rows(file: BinaryIO, carrier: Carrier, span: Span) -> Iterator[Row]:
    cells_of_rows = _cells(file, carrier)
    header = next(cells_of_rows, [])
    stop = None if span.rows is None else span.first + span.rows
    for number, cells in enumerate(islice(cells_of_rows, span.first, stop), span.first):
        if not cells:
            continue  # an empty line
        raw = "\t".join(cells)
        if not is_text(raw):
            yield (
                number,
                Fault("invalid_utf8", "not UTF-8", raw.encode("utf-8", "surrogateescape").decode("utf-8", "replace")),
            )
        elif len(cells) != len(header):
            yield number, Fault("wrong_cells", f"{len(cells)} cells, the header has {len(header)}", raw)
        else:
            yield number, dict(zip(header, cells, strict=True))


def _cells(file: BinaryIO, carrier: Carrier) -> Iterator[list[str]]:
    """Records of CSV, quoted as RFC 4180 says, or of TSV, where a quotation mark is a character like any other.

    Strict, because a quotation mark that is never closed would swallow the rest of the file as one cell.
    """
    csv.field_size_limit(CELL_CHARACTERS)
    text = io.TextIOWrapper(_unpacked(file, carrier), "utf-8-sig", "surrogateescape", newline="")
    if carrier.format == "tsv":
        return csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
    return csv.reader(text, strict=True)


def _parquet_rows(file: BinaryIO, span: Span, columns: Sequence[str] | None) -> Iterator[Row]:
    reader = pq.ParquetFile(file)
    there = [name for name in reader.schema_arrow.names if columns is None or name in columns]
    stop = reader.metadata.num_rows if span.rows is None else span.first + span.rows
    groups, begin, number = [], 0, None
    for group in range(reader.metadata.num_row_groups):
        end = begin + reader.metadata.row_group(group).num_rows
        if begin < stop and end > span.first:
            groups.append(group)
            number = begin if number is None else number
        begin = end
    numbers = count(number or 0)
    for batch in reader.iter_batches(BATCH_ROWS, row_groups=groups, columns=there, use_threads=False):
        for row, index in zip(_batch_rows(batch), numbers, strict=False):
            if span.first <= index < stop:
                yield index, row


def _batch_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | Fault]:
    try:
        return cast("list[dict[str, Any] | Fault]", batch.to_pylist())
    except UnicodeDecodeError:
        return [_batch_row(batch.slice(index, 1)) for index in range(len(batch))]


def _batch_row(row: pa.RecordBatch) -> dict[str, Any] | Fault:
    try:
        return cast("dict[str, Any]", row.to_pylist()[0])
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", "not UTF-8", error.object.decode("utf-8", "replace"))


def _unpacked(file: BinaryIO, carrier: Carrier) -> BinaryIO:
    return _UNPACK[carrier.compression](file) if carrier.compression else file


_UNPACK: Mapping[str, Callable[[BinaryIO], BinaryIO]] = {
    "gz": lambda file: cast(BinaryIO, gzip.GzipFile(fileobj=file)),
    "bz2": lambda file: cast(BinaryIO, bz2.BZ2File(file)),
    "zst": lambda file: cast(BinaryIO, io.BufferedReader(ZstdReader(file), 1 << 17)),
}


def _line_starts(file: BinaryIO, rows: int) -> Iterator[int]:
    """The byte at which each `rows`-th line begins."""
    byte = 0
    for number, line in enumerate(file):
        if number % rows == 0:
            yield byte
        byte += len(line)


def is_text(value: str) -> bool:
    """Whether a string can be stored: it has no lone surrogate, the mark of undecodable bytes and broken JSON."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _file_errors(uri: str, carrier: Carrier, where: Callable[[], str] = lambda: "") -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise InputError(f"{uri}: truncated{where()}: the .{carrier.compression} data ends too early") from None
    except (OSError, zlib.error, csv.Error, pa.ArrowException) as error:
        kind = ".".join(part for part in carrier if part)
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{uri}: not a readable .{kind} file{where()} ({reason})") from None
