"""The ledger: every row that enters a step leaves it as kept, dropped for a reason, or quarantined for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass
class Ledger:
    """Row counts by source, and by source and reason: rows_in = rows_out + Σ dropped + Σ quarantined."""

    rows_in: Counter[str] = field(default_factory=Counter)
    rows_out: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    quarantined: dict[str, Counter[str]] = field(default_factory=dict)

    @classmethod
    def of_shard(cls, rows_in: Mapping[str, int], kept: pa.Table, rejected: pa.Table) -> Ledger:
        """Count one shard: what came in by source, the records kept and the rows rejected."""
        ledger = cls(rows_in=Counter(rows_in))
        ledger.rows_out.update(kept["source"].to_pylist())
        for kind, source, reason in zip(
            rejected["kind"].to_pylist(), rejected["source"].to_pylist(), rejected["reason"].to_pylist(), strict=True
        ):
            side = ledger.quarantined if kind == "quarantined" else ledger.dropped
            side.setdefault(source, Counter())[reason] += 1
        return ledger

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Ledger:
        """The inverse of `as_dict`."""
        return cls(
            Counter(value["rows_in"]),
            Counter(value["rows_out"]),
            {source: Counter(reasons) for source, reasons in value["dropped"].items()},
            {source: Counter(reasons) for source, reasons in value["quarantined"].items()},
        )

    @classmethod
    def sum(cls, ledgers: Iterable[Ledger]) -> Ledger:
        """Add the ledgers of shards up."""
        total = cls()
        for ledger in ledgers:
            total.rows_in.update(ledger.rows_in)
            total.rows_out.update(ledger.rows_out)
            for mine, theirs in ((total.dropped, ledger.dropped), (total.quarantined, ledger.quarantined)):
                for source, reasons in theirs.items():
                    mine.setdefault(source, Counter()).update(reasons)
        return total

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON with sorted keys: rows_in, rows_out by source; dropped, quarantined by source and reason."""
        return {
            "rows_in": dict(sorted(self.rows_in.items())),
            "rows_out": dict(sorted(self.rows_out.items())),
            "dropped": {source: dict(sorted(self.dropped[source].items())) for source in sorted(self.dropped)},
            "quarantined": {name: dict(sorted(self.quarantined[name].items())) for name in sorted(self.quarantined)},
        }

    def check(self) -> None:
        """Raise AssertionError, naming the source, if a row is unaccounted for: that is a bug in a step."""
        for source in sorted({*self.rows_in, *self.rows_out, *self.dropped, *self.quarantined}):
            came = self.rows_in[source]
            left = self.rows_out[source] + sum(self.dropped.get(source, Counter()).values())
            left += sum(self.quarantined.get(source, Counter()).values())
            if came != left:
                raise AssertionError(f"ledger: {came} rows of {source} came in and {left} left")
