"""The record schema that every dataset shares, and the table of rejected rows kept beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import xxhash

# Roles by task (Piccolo2's names): retri_contrast: text = query, text_pos = passage, text_neg = hard negatives;
# cosent: text, text_pair, label (higher = more alike); cls_contrast: text, text_pos = label text, text_neg = others.
SCHEMA = pa.schema(
    [
        ("id", pa.uint64()),
        ("task", pa.string()),
        ("text", pa.string()),
        ("text_pos", pa.string()),
        ("text_neg", pa.list_(pa.string())),
        ("text_pair", pa.string()),
        ("label", pa.float64()),
        ("source", pa.string()),
        ("lang", pa.string()),
        ("url", pa.string()),
        ("score", pa.float32()),
        ("meta", pa.string()),
    ]
)

# kind: "dropped" by a rule, or "quarantined" because it could not be read. offset: row number in its source, from 0.
REJECTED_SCHEMA = pa.schema(
    [
        ("id", pa.uint64()),
        ("kind", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("source", pa.string()),
        ("offset", pa.int64()),
        ("record", pa.string()),
    ]
)

RAW_CHARACTERS = 2000


def pair_id(task: str, text: str, other: str | None) -> int:
    """The 64-bit id of a pair: xxh3 over its task and both texts (`other`: the passage or the second text)."""
    return xxhash.xxh3_64_intdigest(f"{task}\x1f{text}\x1f{'' if other is None else other}".encode())


def record_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Make a table of SCHEMA from dict rows; missing columns are null, `id` is computed, `meta` may be a dict."""
    columns: dict[str, list[Any]] = {name: [row.get(name) for row in rows] for name in SCHEMA.names}
    columns["meta"] = [dump_meta(meta) if isinstance(meta, Mapping) else meta for meta in columns["meta"]]
    keys = zip(columns["task"], columns["text"], columns["text_pos"], columns["text_pair"], strict=True)
    columns["id"] = [pair_id(task, text, pair if pos is None else pos) for task, text, pos, pair in keys]
    return pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def record_ids(table: pa.Table) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Recompute the ids [N] of a table of SCHEMA, for a step that has changed the texts."""
    left, right = pair_texts(table)
    keys = zip(table["task"].to_pylist(), left.to_pylist(), right.to_pylist(), strict=True)
    return np.fromiter((pair_id(*key) for key in keys), np.uint64, len(table))


def pair_texts(table: pa.Table) -> tuple[pa.Array, pa.Array]:
    """Both sides of every pair as string arrays [N]: (text, text_pos or else text_pair)."""
    import pyarrow.compute as pc

    right = pc.coalesce(table["text_pos"], table["text_pair"])
    return table["text"].combine_chunks(), right.combine_chunks()


def dump_meta(meta: Mapping[str, Any]) -> str:
    """A meta object as the JSON string that the `meta` column holds: sorted keys, no spaces."""
    return json.dumps(meta, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def rejected_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Make a table of REJECTED_SCHEMA from dict rows; missing columns are null, `record` is cut to 2,000 characters."""
    kept = [dict(row) for row in rows]
    for row in kept:
        if row.get("record") is not None:
            row["record"] = str(row["record"])[:RAW_CHARACTERS]
    columns = [pa.array([row.get(field.name) for row in kept], field.type) for field in REJECTED_SCHEMA]
    return pa.table(columns, schema=REJECTED_SCHEMA)


def reject_records(table: pa.Table, reasons: Sequence[str], details: Sequence[str | None] | None = None) -> pa.Table:
    """Rejected rows for records [N] that a rule dropped, with its reason [N] and, where useful, a detail [N]."""
    records = [
        orjson.dumps({key: value for key, value in row.items() if value is not None}, option=orjson.OPT_SORT_KEYS)
        for row in table.to_pylist()
    ]
    columns = {
        "id": table["id"].combine_chunks(),
        "kind": ["dropped"] * len(table),
        "reason": list(reasons),
        "detail": list(details) if details is not None else [None] * len(table),
        "source": table["source"].combine_chunks(),
        "offset": [None] * len(table),
        "record": [record.decode()[:RAW_CHARACTERS] for record in records],
    }
    return pa.table([pa.array(columns[f.name], f.type) for f in REJECTED_SCHEMA], schema=REJECTED_SCHEMA)
