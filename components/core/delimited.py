"""Rows of CSV, quoted as RFC 4180 says, and of TSV, where a quotation mark is a character like any other."""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO

from components.core.carriers import Fault, Row, is_text

# A record longer than this is taken for one whose quotation mark was never closed.
RECORD_CHARACTERS = 1 << 24
RAW_CHARACTERS = 8000


def read_cells(file: BinaryIO, delimiter: str, damage: Callable[[], Fault | None]) -> Iterator[list[str] | Fault]:
    """The records in order, the header among them; an empty line is an empty list.

    A quotation mark that is never closed costs the line that it stands in: the lines after it are read again by
    themselves. At the end `damage` tells whether there should be more; the fault stands for that, and for a record
    begun. Bytes that are not UTF-8 come as lone surrogates.
    """
    csv.field_size_limit(RECORD_CHARACTERS)
    lines = _Lines(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline=""))
    while True:
        if delimiter == "\t":
            reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(lines, strict=True)
        try:
            for cells in reader:
                if lines.cut and (fault := damage()):
                    yield fault._replace(raw=_raw(cells))
                    return
                yield cells
                lines.record.clear()
            break
        except csv.Error as error:
            line = lines.keep_first()
            if len(line) >= RECORD_CHARACTERS:
                yield Fault(
                    "too_long", f"a line of {RECORD_CHARACTERS:,} characters or more", _raw([line[:RAW_CHARACTERS]])
                )
            else:
                yield Fault("bad_quotes", f"not quoted as RFC 4180 says ({error})", _raw([line]))
    if fault := damage():
        yield fault


def read_delimited(file: BinaryIO, delimiter: str, skip: int, damage: Callable[[], Fault | None]) -> Iterator[Row]:
    """Rows below the header, numbered from 0, without the first `skip`."""
    records = read_cells(file, delimiter, damage)
    header = next(records, [])
    if isinstance(header, Fault):
        if not skip:
            yield 0, header
        return
    for number, cells in enumerate(records):
        if number < skip or not cells:
            continue
        if isinstance(cells, Fault):
            yield number, cells
        elif len(cells) != len(header):
            yield number, Fault("wrong_cells", f"{len(cells)} cells, the header has {len(header)}", _raw(cells))
        elif not is_text("".join(cells)):
            yield number, Fault("invalid_utf8", "not UTF-8", _raw(cells))
        else:
            yield number, dict(zip(header, cells, strict=True))


class _Lines:
    """Lines of a text, remembered as long as they may belong to one record."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._again: deque[str] = deque()
        self.record: list[str] = []
        self.cut = False
        """Whether the line given last ends without a line feed, as only the end of a file does."""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._text.readline(RECORD_CHARACTERS)
        if not line:
            raise StopIteration
        self.record.append(line)
        self.cut = line[-1] not in "\r\n"
        return line

    def keep_first(self) -> str:
        """Take back all lines of the present record but the first, which is returned."""
        first, *others = self.record
        self._again.extendleft(reversed(others))
        self.record.clear()
        return first


def _raw(cells: list[str]) -> str:
    return _storable("\t".join(cells))


def _storable(text: str) -> str:
    return text.rstrip("\r\n").encode("utf-8", "surrogateescape").decode("utf-8", "replace")
