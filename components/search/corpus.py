"""The corpus that search ranks: every passage of the scored and of the held-out data, once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from components.core.manifest import Dataset

COLUMNS = ("task", "text", "text_pos", "text_pair", "source", "url", "meta")
SCHEMA = pa.schema([("text", pa.large_string()), ("title", pa.string()), ("source", pa.string()), ("url", pa.string())])
TITLE_CHARACTERS = 120


def corpus_table(datasets: Sequence[Dataset]) -> pa.Table:
    """Passages [N] of SCHEMA in the order of the datasets, each text once.

    Passages are the positives of retrieval pairs; data without any gives the texts of its sentence pairs.
    """
    rows = list(_unique(datasets, ("text_pos",), "retri_contrast")) or list(
        _unique(datasets, ("text", "text_pair"), "cosent")
    )
    return pa.table({name: [row[name] for row in rows] for name in SCHEMA.names}, schema=SCHEMA)


def _unique(datasets: Sequence[Dataset], columns: tuple[str, ...], task: str) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for dataset in datasets:
        for shard in dataset.shards:
            for row in dataset.read_shard(shard, COLUMNS, verify=False).to_pylist():
                if row["task"] != task:
                    continue
                for column in columns:
                    text = row[column]
                    if text is not None and text not in seen:
                        seen.add(text)
                        yield {
                            "text": text,
                            "title": _title(text, row["meta"]),
                            "source": row["source"],
                            "url": row["url"],
                        }


def _title(text: str, meta: str | None) -> str:
    """The object that a passage documents, else its first line."""
    name = json.loads(meta).get("object") if meta else None
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return str(name) if name else first[:TITLE_CHARACTERS]
