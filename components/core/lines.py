"""JSON lines, read in blocks: a byte range of a file, or a stream that compressed data unpack to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import orjson

from components.core.carriers import Fault, Row

BLOCK_BYTES = 1 << 20
# A longer line is set apart instead of being held in memory.
LINE_BYTES = 1 << 27
# Bytes of a broken line that are kept as its record; they hold more characters than a rejected row keeps.
RAW_BYTES = 8000
ARRAY = "the file is one JSON array, expected one object a line (`jq -c '.[]'` makes that)"
_ARRAY = re.compile(rb"\s*\[\s*(\{|$)")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class _Lines(NamedTuple):
    """Consecutive lines without their line feeds; `cut` if the last one had none."""

    lines: list[bytes]
    cut: bool


def read_json_lines(
    file: BinaryIO, start: int, stop: int | None, skip: int, damage: Callable[[], Fault | None]
) -> Iterator[Row]:
    """Rows of the lines that start in the bytes [start, stop), numbered from 0, without the first `skip`.

    A line of nothing but whitespace has a number and is no row. A last line without line feed that is not JSON was
    cut off: its reason is `truncated`. A file that is one JSON array gives one fault that says so. At the end of the
    file `damage` tells whether there should be more of it; the fault stands for that, and for a line begun.
    """
    number = 0
    for lines, cut in _line_blocks(file, start, stop):
        last = number + len(lines) - 1
        if start == number == 0 and _begins_array(lines[0]):
            if not skip:
                yield 0, Fault("json_array", ARRAY, raw_text(lines[0]))
            return
        for line in lines if last >= skip else ():
            if number >= skip and line and not line.isspace():
                row = json_object(line.removeprefix(BYTE_ORDER_MARK) if start == number == 0 else line)
                if cut and number == last:
                    row = _last_row(row, line, damage())
                yield number, row
            number += 1
        if cut:
            return
        number = last + 1
    if number >= skip and (fault := damage()):
        yield number, fault


def json_object(line: bytes) -> dict[str, Any] | Fault:
    """The object that a line holds. What orjson refuses is judged by Python's parser, which also takes NaN."""
    if len(line) > LINE_BYTES:
        return Fault("too_long", f"a line of over {LINE_BYTES:,} bytes", raw_text(line))
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return Fault("invalid_utf8", f"byte {error.start} of the line is not UTF-8", raw_text(line))
        except (ValueError, RecursionError) as error:
            return Fault("not_json", f"not a JSON object: {error}", raw_text(line))
    if isinstance(value, dict):
        return value
    return Fault(
        "not_object", f"a JSON {type(value).__name__}, expected an object with columns as keys", raw_text(line)
    )


def raw_text(line: bytes) -> str:
    """The beginning of a line as text, for the record of a rejected row."""
    return line[:RAW_BYTES].decode("utf-8", "replace").rstrip()


def _last_row(row: dict[str, Any] | Fault, line: bytes, damage: Fault | None) -> dict[str, Any] | Fault:
    """The row of a last line without line feed: what there is of it if it is no row, or if more should follow."""
    if damage:
        return damage._replace(raw=raw_text(line))
    whole = line.rstrip().endswith(b"}")
    if isinstance(row, Fault) and (row.reason == "not_json" or (row.reason == "invalid_utf8" and not whole)):
        return Fault("truncated", f"the last line is cut off: {row.detail}", row.raw)
    return row


class LineCounter:
    """Counts the lines of a file up to any byte, going on from where it last stopped."""

    def __init__(self) -> None:
        self._byte = self._feeds = 0

    def before(self, file: BinaryIO, byte: int) -> int:
        """How many lines start before `byte` (above 0): the number of the first line that starts there or later."""
        end = byte - 1  # a line feed here starts a line at `byte`
        if end < self._byte:
            self._byte = self._feeds = 0
        file.seek(self._byte)
        while self._byte < end and (block := file.read(min(BLOCK_BYTES, end - self._byte))):
            self._feeds += block.count(b"\n")
            self._byte += len(block)
        return self._feeds + 1


def is_array(file: BinaryIO) -> bool:
    """Whether a file starts like one JSON array of objects, so that its lines are no rows."""
    return _begins_array(file.read(4096).split(b"\n")[0])


def _begins_array(line: bytes) -> bool:
    return _ARRAY.match(line.removeprefix(BYTE_ORDER_MARK)) is not None


def _line_blocks(file: BinaryIO, start: int, stop: int | None) -> Iterator[_Lines]:
    """The lines that start in [start, stop), as they come with each block. An overlong one is cut after LINE_BYTES."""
    if start:
        file.seek(start - 1)
    first = not start  # whether the first line's start has been found
    begun: list[bytes] = []  # blocks of a line that has begun and not ended
    begun_bytes = 0
    left = None if stop is None else stop - max(start - 1, 0)  # bytes until the last line of the range has begun
    while block := file.read(BLOCK_BYTES):
        if left is not None and len(block) >= left:
            end = block.find(b"\n", max(left - 1, 0))
            last = end >= 0
            if last:
                block = block[: end + 1]
            left = 0
        else:
            last = False
            left = None if left is None else left - len(block)
        if not first:
            _, found, block = block.partition(b"\n")
            if not found:
                continue
            first = True
        lines = block.split(b"\n")
        if len(lines) > 1:
            if begun:
                lines[0] = b"".join([*begun, lines[0]])
                begun, begun_bytes = [], 0
            rest = lines.pop()
            yield _Lines(lines, False)
        else:
            rest = block
        if last:
            return
        if rest and begun_bytes <= LINE_BYTES:
            begun.append(rest[: LINE_BYTES + 1 - begun_bytes])
            begun_bytes += len(begun[-1])
    if begun:
        yield _Lines([b"".join(begun)], True)
