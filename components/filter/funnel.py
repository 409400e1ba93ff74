"""The funnel: rows left after each stage and why the others went, as a CSV file that plots and reads well."""

from __future__ import annotations

import csv
import io
from collections import Counter

from components.core.ledger import Ledger
from components.filter.params import FilterParams
from components.filter.reasons import STAGES

FIRST_STAGE = "ingest"
COLUMNS = ("stage", "rows", "dropped", "reasons")


def funnel_csv(ledger: Ledger, params: FilterParams) -> bytes:
    """One line for each stage in order: rows left after it, rows dropped in it, and these by reason."""
    rows_by_reason = sum(ledger.dropped.values(), Counter[str]())
    left = ledger.rows_in.total()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerow([FIRST_STAGE, left, 0, ""])
    for stage, reasons in STAGES.items():
        reasons = (*reasons, *(name for name, place in params.classifiers.items() if place == stage))
        counts = {reason: rows_by_reason[reason] for reason in reasons if rows_by_reason[reason]}
        left -= sum(counts.values())
        spelt = "; ".join(f"{reason} {rows}" for reason, rows in counts.items())
        writer.writerow([stage, left, sum(counts.values()), spelt])
    return text.getvalue().encode()
