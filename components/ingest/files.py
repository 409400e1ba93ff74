"""Sources of files: planned as parts by their size, each read as a stream into shards of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from components.core.build import ShardOutput
from components.core.carriers import (
    Carrier,
    Fault,
    Meter,
    RowCounter,
    Span,
    carrier_of,
    column_names,
    read_rows,
    split_file,
)
from components.core.errors import InputError
from components.core.fingerprint import digest_json
from components.core.records import RAW_CHARACTERS, REJECTED_SCHEMA, SCHEMA, record_table, rejected_table
from components.core.sources import ResolvedSource, SourceParams
from components.core.textnorm import normalise_key
from components.ingest.columns import ColumnMap
from components.ingest.holdout import is_held_out

# Smaller files are read several to a part, so that thousands of pages do not become thousands of shards.
SMALL_BYTES = 1 << 20
# They make parts of this share of a shard: of pages most is not text, and extracting it should keep all workers busy.
SMALL_SHARE = 4
# Rows become Arrow tables in batches of at most this many, or of about so many characters.
BATCH_ROWS = 1024
BATCH_CHARACTERS = 1 << 20
TEXTS = ("text", "text_pos", "text_neg", "text_pair")
REJECTED_TEXTS = ("detail", "record")
# A position in a part is a piece times this, and a row of the piece.
PIECE_ROWS = 1 << 40


@dataclass(frozen=True)
class Piece:
    """A span of one file."""

    uri: str
    digest: str
    carrier: Carrier
    span: Span
    size: int
    """Bytes of the file in the span."""


@dataclass(frozen=True)
class FilePart:
    """A span of a file, or several small files, read for one of the two sides of the holdout."""

    source: SourceParams
    pieces: tuple[Piece, ...]
    held_out: bool
    shard_bytes: int

    @property
    def megabytes(self) -> float:
        """Size of its files or their spans."""
        return sum(piece.size for piece in self.pieces) / 1e6


def file_parts(source: ResolvedSource, held_out: bool, shard_bytes: int) -> list[tuple[str, FilePart]]:
    """The parts of a source, each with the digest of what it depends on.

    Reads no more than the header of the first file of each format and the footers of large Parquet files. Raises
    InputError for a header that lacks a column.
    """
    columns = ColumnMap(source.params)
    seen: set[str] = set()
    parts: list[list[Piece]] = []
    group_bytes = 0
    for each in source.inputs:
        carrier = carrier_of(each.uri)
        assert carrier is not None, each.uri
        if each.size and carrier.format not in seen:
            seen.add(carrier.format)
            header = column_names(each.uri, carrier)
            problem = columns.missing(header) if header else None
            if problem:
                raise InputError(f"{each.uri}: {problem}")
        if each.size < SMALL_BYTES:
            if not group_bytes or group_bytes + each.size > shard_bytes // SMALL_SHARE:
                parts.append([])
                group_bytes = 0
            parts[-1].append(Piece(each.uri, each.digest, carrier, Span(), each.size))
            group_bytes += max(each.size, 1)
        else:
            group_bytes = 0
            spans = split_file(each.uri, carrier, each.size, columns.wanted, shard_bytes)
            size = each.size // len(spans)  # roughly, for progress
            parts += [[Piece(each.uri, each.digest, carrier, span, size)] for span in spans]
    common = digest_json([source.params.model_dump(mode="json"), held_out, shard_bytes])
    return [
        (digest_json([common, *map(astuple, part)]), FilePart(source.params, tuple(part), held_out, shard_bytes))
        for part in parts
    ]


def file_shards(part: FilePart, position: int) -> Iterator[ShardOutput]:
    """Read a part from `position` on, as shards of about `shard_bytes` of text; at least one of a part never read.

    A position is the index of a piece and, in the low bits, of its next row. A row belongs to the side of the holdout
    that its text hashes to; one that cannot be read or is not wanted to the training side. A row with several positive
    passages counts as that many.
    """
    columns = ColumnMap(part.source)
    shard, first = _Shard(part, columns), not position
    done, skip = divmod(position, PIECE_ROWS)
    for index, piece in enumerate(part.pieces[done:], done):
        meter = Meter()
        for number, row in read_rows(piece.uri, piece.carrier, piece.span, columns.wanted, skip, meter):
            shard.add(piece, number, row)
            if shard.bytes >= part.shard_bytes:
                read = sum(each.size for each in part.pieces[:index]) + meter.bytes()
                yield shard.output(index * PIECE_ROWS + number + 1, read / 1e6)
                shard, first = _Shard(part, columns), False
        skip = 0
    last = shard.output(len(part.pieces) * PIECE_ROWS, part.megabytes)
    if last.rows_in or first:
        yield last


class _Shard:
    """Rows on their way to one output: a batch as Python objects, all before it as Arrow tables."""

    def __init__(self, part: FilePart, columns: ColumnMap) -> None:
        self.bytes = 0
        """Of the texts of all but the present batch."""
        self._part, self._columns = part, columns
        self._kept: list[dict[str, Any]] = []
        self._rejected: list[dict[str, Any]] = []
        self._characters = 0
        self._tables: list[pa.Table] = []
        self._rejected_tables: list[pa.Table] = []

    def add(self, piece: Piece, number: int, row: dict[str, Any] | Fault) -> None:
        """Put a row where it belongs."""
        if not isinstance(row, Fault) and not self._columns.selects(row):
            self._reject(piece, number, Fault("not_selected", "does not meet the source's 'where'", "", "dropped"))
            return
        records = row if isinstance(row, Fault) else self._columns.records(row)
        if isinstance(records, Fault):
            self._reject(piece, number, records)
            return
        share = self._part.source.holdout
        if share and is_held_out(normalise_key(records[0]["text"]), share) != self._part.held_out:
            return
        self._kept += records
        self._characters += sum(len(each["text"]) + len(each.get("text_pos") or "") for each in records)
        self._end_batch(len(self._kept))

    def output(self, position: int, megabytes: float) -> ShardOutput:
        """Everything added, as the shard that reaches to `position`, `megabytes` into the part."""
        self._flush()
        kept = pa.concat_tables([SCHEMA.empty_table(), *self._tables])
        rejected = pa.concat_tables([REJECTED_SCHEMA.empty_table(), *self._rejected_tables])
        rows = len(kept) + len(rejected)
        rows_in = {self._part.source.title: rows} if rows else {}
        return ShardOutput(kept, rejected, rows_in, position=position, progress=megabytes)

    def _reject(self, piece: Piece, number: int, fault: Fault) -> None:
        if self._part.held_out:
            return  # it counts on the training side
        self._rejected.append(
            {
                "kind": fault.kind,
                "reason": fault.reason,
                "detail": f"{piece.uri}: {fault.detail}",
                "source": self._part.source.title,
                "offset": number + _counter(piece.uri, piece.carrier, piece.digest).before(piece.span),
                "record": fault.raw[:RAW_CHARACTERS] or None,
            }
        )
        self._end_batch(len(self._rejected))

    def _end_batch(self, rows: int) -> None:
        if rows >= BATCH_ROWS or self._characters >= BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        for rows, tables, make, texts in (
            (self._kept, self._tables, record_table, TEXTS),
            (self._rejected, self._rejected_tables, rejected_table, REJECTED_TEXTS),
        ):
            if rows:
                tables.append(make(rows))
                self.bytes += tables[-1].select(texts).nbytes
        self._kept, self._rejected, self._characters = [], [], 0


@lru_cache(maxsize=8)
def _counter(uri: str, carrier: Carrier, digest: str) -> RowCounter:
    """One counter for all parts of a file that this process reads; `digest` keeps it to one content."""
    return RowCounter(uri, carrier)
