"""Sources of files: split into parts of bounded size, each read into records and rejected rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.core.carriers import Carrier, Fault, Span, carrier_of, column_names, read_rows, split_rows
from components.core.errors import InputError
from components.core.fingerprint import digest_json
from components.core.manifest import ShardOutput
from components.core.records import record_table, rejected_table
from components.core.sources import ResolvedSource, SourceInput, SourceParams
from components.core.textnorm import normalise_key
from components.ingest.columns import ColumnMap
from components.ingest.holdout import is_held_out

# Below this size, in bytes, a file is one part and need not be read twice to count its rows.
WHOLE_BYTES = 16 << 20
WHOLE_BYTES_PACKED = 4 << 20


@dataclass(frozen=True)
class FilePart:
    """A span of a file, read for one of the two sides of the holdout."""

    source: SourceParams
    uri: str
    carrier: Carrier
    span: Span
    held_out: bool


def file_parts(source: ResolvedSource, held_out: bool, shard_rows: int) -> list[tuple[str, FilePart]]:
    """The parts of a source, each with the digest of what it depends on.

    Raises InputError for a file that cannot be read or whose header lacks a column.
    """
    parts = []
    for each in source.inputs:
        carrier = carrier_of(each.uri)
        assert carrier is not None, each.uri
        header = column_names(each.uri, carrier) if each.size else None
        problem = ColumnMap(source.params).missing(header) if header else None
        if problem:
            raise InputError(f"{each.uri}: {problem}")
        for span in _spans(each, carrier, shard_rows):
            key = digest_json([source.params.model_dump(mode="json"), each.uri, each.digest, list(span), held_out])
            parts.append((key, FilePart(source.params, each.uri, carrier, span, held_out)))
    return parts


def file_shard(part: FilePart) -> ShardOutput:
    """Read a part. A row belongs to the side that its text hashes to; one that cannot be read to the training side.

    A row with several positive passages counts as that many.
    """
    columns = ColumnMap(part.source)
    kept: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    for number, row in read_rows(part.uri, part.carrier, part.span, columns.wanted):
        if not isinstance(row, Fault) and not columns.selects(row):
            if not part.held_out:
                rejected.append(
                    {
                        "kind": "dropped",
                        "reason": "where",
                        "detail": f"{part.uri}: does not meet the source's 'where'",
                        "source": part.source.title,
                        "offset": number,
                    }
                )
            continue
        records = row if isinstance(row, Fault) else columns.records(row)
        if not isinstance(records, Fault):
            if is_held_out(normalise_key(records[0]["text"]), part.source.holdout) == part.held_out:
                kept += records
        elif not part.held_out:
            rejected.append(
                {
                    "kind": records.kind,
                    "reason": records.reason,
                    "detail": f"{part.uri}: {records.detail}",
                    "source": part.source.title,
                    "offset": number,
                    "record": records.raw,
                }
            )
    rows = len(kept) + len(rejected)
    return ShardOutput(record_table(kept), rejected_table(rejected), {part.source.title: rows} if rows else {})


def _spans(each: SourceInput, carrier: Carrier, shard_rows: int) -> list[Span]:
    packed = carrier.compression is not None or carrier.format == "parquet"
    if each.size <= (WHOLE_BYTES_PACKED if packed else WHOLE_BYTES):
        return [Span()]
    return split_rows(each.uri, carrier, shard_rows)
