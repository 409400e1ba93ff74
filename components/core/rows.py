"""Rows of small evaluation files: JSON lines, CSV and TSV, plain or compressed, each with its place for errors."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from typing import Any

from components.core import storage
from components.core.errors import InputError


def read_rows(uri: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file:line, row) of a .jsonl, .csv or .tsv file, also with .gz or .zst.

    Raises InputError for a missing, truncated or malformed file, naming the line.
    """
    stem = uri.removesuffix(".gz").removesuffix(".zst")
    if stem.endswith((".csv", ".tsv")):
        lines = read_delimited(uri, "," if stem.endswith(".csv") else "\t")
        _, header = next(lines, ("", []))
        for where, cells in lines:
            if len(cells) != len(header):
                raise InputError(f"{where}: {len(cells)} cells, the header has {len(header)}")
            yield where, dict(zip(header, cells, strict=True))
    elif stem.endswith((".jsonl", ".json")):
        for number, line in enumerate(_text(uri).split("\n"), 1):
            if not line.strip():
                continue
            where = f"{uri}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{where}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise InputError(f"{where}: expected a JSON object, found {type(row).__name__}")
            yield where, row
    else:
        raise InputError(f"{uri}: expected a .jsonl, .csv or .tsv file (plain, .gz or .zst)")


def read_delimited(uri: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (file:line, cells) of every line that is not empty; tabs separate without quoting, commas with."""
    lines = io.StringIO(_text(uri), newline="")
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL)
    try:
        for cells in reader:
            if cells:
                yield f"{uri}:{reader.line_num}", cells
    except csv.Error as error:
        raise InputError(f"{uri}:{reader.line_num}: {error}") from None


def _text(uri: str) -> str:
    data = _decompress(uri, storage.read_bytes(uri))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{uri}:{line}: not UTF-8 ({error.reason} at byte {error.start})") from None


def _decompress(uri: str, data: bytes) -> bytes:
    if uri.endswith(".gz"):
        try:
            return gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{uri}: cannot be decompressed ({error})") from None
    if uri.endswith(".zst"):
        import zstandard

        parts = []
        try:
            while data:
                frame = zstandard.ZstdDecompressor().decompressobj()
                parts.append(frame.decompress(data))
                if not frame.eof:
                    raise InputError(f"{uri}: cannot be decompressed (it ends inside a frame)")
                data = frame.unused_data
        except zstandard.ZstdError as error:
            raise InputError(f"{uri}: cannot be decompressed ({error})") from None
        return b"".join(parts)
    return data
