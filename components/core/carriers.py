"""Rows of files, whatever carries them: the formats, how suffixes name them, and one way to read them all.

Rows are JSON lines, CSV, TSV, Parquet, Arrow, or pages of HTML; text may be compressed; files lie on disk or remote.
Each reader yields (row number, row), a row being a dict by column, or a Fault if it is broken: one row by itself, or
one that stands for all that a damaged file does not give. Memory holds a batch of rows, never a file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, cast

from components.core import storage
from components.core.errors import InputError

FORMATS = ("jsonl", "csv", "tsv", "parquet", "arrow", "warc", "html")
COMPRESSIONS = ("gz", "zst", "bz2")
# Other suffixes that name a format.
ALIASES = {"ndjson": "jsonl", "json": "jsonl", "feather": "arrow", "htm": "html"}
# Formats with a compression of their own inside.
PACKED_FORMATS = ("parquet", "arrow")
DELIMITERS = {"csv": ",", "tsv": "\t"}
# A Parquet file this much smaller than a part is not cut, so that planning need not read its footer.
PARQUET_RATIO = 4


class Carrier(NamedTuple):
    """How rows are carried: one of FORMATS, and one of COMPRESSIONS or none."""

    format: str
    compression: str | None


def carrier_of(uri: str) -> Carrier | None:
    """The carrier that a file's suffixes name, or None for a file that rows cannot be read from."""
    suffixes = uri.lower().rpartition("/")[2].split(".")[1:]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else None
    form = ALIASES.get(suffixes[-1], suffixes[-1]) if suffixes else None
    if form not in FORMATS or (form in PACKED_FORMATS and compression):
        return None
    return Carrier(form, compression)


def row_files(uris: Iterable[str]) -> list[str]:
    """Those of a folder's files that rows can be read from; `.json` beside other such files describes them."""
    readable = [uri for uri in uris if carrier_of(uri) is not None]
    return [uri for uri in readable if not uri.lower().endswith(".json")] or readable


class Fault(NamedTuple):
    """A row that cannot be used: a reason to count by, what is wrong and would be right, and the row as it came.

    `kind`: "quarantined" if it is broken, "dropped" if it is sound but holds nothing to train on.
    """

    reason: str
    detail: str
    raw: str
    kind: str = "quarantined"


class Span(NamedTuple):
    """A part of a file: bytes of plain JSON lines (the lines that start there), row groups of Parquet, else all."""

    start: int = 0
    stop: int | None = None


Row = tuple[int, dict[str, Any] | Fault]


class Meter:
    """How many bytes of a span have been read, as long as its rows are being taken; of Parquet nothing is known."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._start = 0

    def watch(self, file: BinaryIO, start: int) -> None:
        """Read the meter off `file` from now on; `start` is where the span begins."""
        self._file, self._start = file, start

    def bytes(self) -> int:
        """Bytes up to the last row taken, and a few more that were read ahead."""
        return 0 if self._file is None else max(0, self._file.tell() - self._start)


def read_rows(
    uri: str, carrier: Carrier, span: Span, columns: Sequence[str] | None, skip: int = 0, meter: Meter | None = None
) -> Iterator[Row]:
    """Yield the rows of a span, numbered from its start, without the first `skip`, which are not parsed.

    Of Parquet and Arrow only `columns` are read, as far as they are there (None: all). What is damaged is a Fault:
    `truncated` or `corrupt` for the rest of a file, `corrupt` for each row of a Parquet row group. Raises InputError
    for a file that is not there or a disk or network that fails. `meter` tells how far it has come.
    """
    with _system_errors(uri), storage.open_read(uri) as file:
        if carrier.format == "parquet":
            from components.core.columnar import read_parquet

            yield from read_parquet(file, span, columns, skip)
            return
        if meter:
            meter.watch(file, span.start)
        if carrier.format == "arrow":
            from components.core.columnar import read_arrow

            yield from read_arrow(file, columns, skip)
        else:
            stream, damage = _unpack(file, carrier)
            yield from _text_rows(uri, carrier, stream, span, skip, damage)


def read_good_rows(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) of a file whose every row is needed; the place is `file:line`, or `file: row N` of no text.

    Raises InputError for a broken row, naming its place, and for a file of a kind that rows cannot be read from.
    """
    carrier = carrier_of(uri)
    if carrier is None:
        raise InputError(f"{uri}: expected a file of rows: {', '.join(f'.{each}' for each in FORMATS)}")
    for number, row in read_rows(uri, carrier, Span(), None):
        # a line of CSV is a record, so that a cell of several lines counts as one
        line = {"jsonl": number + 1, "csv": number + 2, "tsv": number + 2}.get(carrier.format)
        place = f"{uri}: row {number}" if line is None else f"{uri}:{line}"
        if isinstance(row, Fault):
            raise InputError(f"{place}: {row.detail}")
        yield place, row


def read_good_cells(uri: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (`file:line`, cells) of the lines of a TSV file that are not empty, whether or not it has a header.

    Raises InputError for a line that cannot be read.
    """
    from components.core.delimited import read_cells

    carrier = carrier_of(uri) or Carrier("tsv", None)
    with _system_errors(uri), storage.open_read(uri) as file:
        stream, damage = _unpack(file, carrier)
        for number, cells in enumerate(read_cells(stream, "\t", damage), 1):
            if isinstance(cells, Fault):
                raise InputError(f"{uri}:{number}: {cells.detail}")
            if not is_text("".join(cells)):
                raise InputError(f"{uri}:{number}: not UTF-8")
            if cells:
                yield f"{uri}:{number}", cells


def column_names(uri: str, carrier: Carrier) -> list[str] | None:
    """The columns that the header or schema names; None where there is none, or none that can be read."""
    with _system_errors(uri), storage.open_read(uri) as file:
        if carrier.format == "parquet":
            from components.core.columnar import parquet_columns

            return parquet_columns(file)
        if carrier.format == "arrow":
            from components.core.columnar import arrow_columns

            return arrow_columns(file)
        if carrier.format in DELIMITERS:
            from components.core.delimited import read_cells

            stream, damage = _unpack(file, carrier)
            header = next(read_cells(stream, DELIMITERS[carrier.format], damage), None)
            return header if isinstance(header, list) else None
        return None


def split_file(uri: str, carrier: Carrier, size: int, columns: Sequence[str] | None, part_bytes: int) -> list[Span]:
    """Spans of about `part_bytes` of text each that cover a file of `size` bytes; reads its first bytes or its footer.

    Only plain JSON lines and Parquet can be entered in the middle; any other file is one span.
    """
    if carrier == Carrier("jsonl", None) and size > part_bytes:
        from components.core.lines import is_array

        with _system_errors(uri), storage.open_read(uri) as file:
            if is_array(file):
                return [Span()]
        starts = range(0, size, part_bytes)
        return [Span(start, start + part_bytes) for start in starts[:-1]] + [Span(starts[-1])]
    if carrier.format == "parquet" and size > part_bytes // PARQUET_RATIO:
        from components.core.columnar import parquet_spans

        with _system_errors(uri), storage.open_read(uri) as file:
            return parquet_spans(file, columns, part_bytes)
    return [Span()]


class RowCounter:
    """The number of the first row of a span of one file. Counts line feeds, going on from the span asked for last."""

    def __init__(self, uri: str, carrier: Carrier) -> None:
        from components.core.lines import LineCounter

        self._uri, self._carrier = uri, carrier
        self._lines = LineCounter()

    def before(self, span: Span) -> int:
        """How many rows of the file come before the span. Raises InputError if the file cannot be read."""
        if not span.start:
            return 0
        with _system_errors(self._uri), storage.open_read(self._uri) as file:
            if self._carrier.format == "parquet":
                from components.core.columnar import rows_before_group

                return rows_before_group(file, span.start)
            return self._lines.before(file, span.start)


def is_text(value: str) -> bool:
    """Whether a string can be stored: it has no lone surrogate, the mark of undecodable bytes and broken JSON."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text_rows(
    uri: str, carrier: Carrier, stream: BinaryIO, span: Span, skip: int, damage: Callable[[], Fault | None]
) -> Iterator[Row]:
    if carrier.format == "jsonl":
        from components.core.lines import read_json_lines

        return read_json_lines(stream, span.start, span.stop, skip, damage)
    if carrier.format == "warc":
        from components.core.pages import read_warc

        return read_warc(stream, skip, damage)
    if carrier.format == "html":
        from components.core.pages import read_html

        return read_html(stream, uri, skip, damage)
    from components.core.delimited import read_delimited

    return read_delimited(stream, DELIMITERS[carrier.format], skip, damage)


def _unpack(file: BinaryIO, carrier: Carrier) -> tuple[BinaryIO, Callable[[], Fault | None]]:
    """The content as a stream, and what tells at its end whether there should be more."""
    if carrier.compression is None:
        return file, lambda: None
    from components.core.packed import Unpacked

    unpacked = Unpacked(file, carrier.compression)
    stream = cast(BinaryIO, io.BufferedReader(unpacked, 1 << 17))
    return stream, lambda: Fault(unpacked.damage, unpacked.detail, "") if unpacked.damage else None


@contextmanager
def _system_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{uri}: {error.strerror or error}") from None
