"""Sample rows that were lost for one reason: drawn from all of them, the same ones every time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from components.core.ledger import Ledger
from components.core.manifest import Dataset


@dataclass(frozen=True)
class Lost:
    """One rejected row. `record` is the record as a mapping, or the raw text where it could not be read."""

    step: str
    dataset: str
    reason: str
    kind: str
    detail: str | None
    source: str
    offset: int | None
    id: int | None
    record: Mapping[str, Any] | str | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON; the id as a string, because a 64-bit number does not survive other languages' readers."""
        return {**asdict(self), "id": None if self.id is None else str(self.id)}


def lost_rows(ledger: Ledger | Mapping[str, Any], reason: str, source: str | None = None) -> int:
    """How many rows a ledger (or a shard's, as a mapping) says were lost for a reason."""
    sides = ledger.as_dict() if isinstance(ledger, Ledger) else ledger
    return sum(
        reasons.get(reason, 0)
        for kind in ("dropped", "quarantined")
        for name, reasons in sides[kind].items()
        if source in (None, name)
    )


def sample(dataset: Dataset, reason: str, rows: int, source: str | None = None) -> list[Lost]:
    """At most `rows` rejected rows, drawn evenly from all of that reason; reads only shards that hold a drawn one.

    The draw depends on the reason, the source and how many rows there are, on nothing else.
    """
    counts = [lost_rows(shard.ledger, reason, source) for shard in dataset.shards]
    seed = xxhash.xxh3_64_intdigest(f"{reason}\x1f{source or ''}".encode())
    total = sum(counts)
    drawn = np.sort(np.random.default_rng(seed).choice(total, min(rows, total), replace=False, shuffle=False))
    ends = np.cumsum(counts)
    found: list[Lost] = []
    for number in np.unique(np.searchsorted(ends, drawn, side="right")).tolist():
        inside = drawn[(drawn >= ends[number] - counts[number]) & (drawn < ends[number])]
        rejected = dataset.read_rejected([dataset.shards[number]])
        matching = pc.equal(rejected["reason"], reason)
        if source is not None:
            matching = pc.and_(matching, pc.equal(rejected["source"], source))
        found += _rows(dataset, rejected.filter(matching).take(inside - (ends[number] - counts[number])))
    return found


def _rows(dataset: Dataset, rejected: pa.Table) -> Iterator[Lost]:
    for row in rejected.to_pylist():
        yield Lost(dataset.step, dataset.uri, **{**row, "record": parsed(row["record"])})


def parsed(record: str | None) -> Mapping[str, Any] | str | None:
    """The JSON of a rejected record, also of one that was cut to its first characters; else the text itself."""
    if record is None or not record.startswith("{"):
        return record
    whole = record.rstrip("\\")  # half an escape
    for text in (record, f'{whole}…"}}', f'{whole}…"]}}', f"{whole}}}"):
        try:
            value = json.loads(text)
        except ValueError:
            continue
        return value if isinstance(value, dict) else record
    return record
