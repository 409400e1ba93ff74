"""The funnel: rows left after each stage, and rows dropped by reason and source, as two CSV files."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable

from components.filter.verdict import CODES, KEPT, REASONS, STAGES

FIRST_STAGE = "ingest"


def count_reasons(sources: Iterable[str], codes: Iterable[int]) -> Counter[tuple[str, int]]:
    """Rows by (source, reason code)."""
    return Counter(zip(sources, codes, strict=True))


def funnel_csv(counts: Counter[tuple[str, int]]) -> bytes:
    """One line for each stage in order: stage, rows left after it, rows dropped in it."""
    by_code: Counter[int] = Counter()
    for (_, code), rows in counts.items():
        by_code[code] += rows
    left = sum(by_code.values())
    lines: list[list[object]] = [["stage", "rows", "dropped"], [FIRST_STAGE, left, 0]]
    for stage, reasons in STAGES.items():
        dropped = sum(by_code[CODES[reason]] for reason in reasons)
        left -= dropped
        lines.append([stage, left, dropped])
    return _csv(lines)


def reasons_csv(counts: Counter[tuple[str, int]]) -> bytes:
    """One line for each stage, reason and source with rows dropped: stage, reason, source, rows."""
    stages = {reason: stage for stage, reasons in STAGES.items() for reason in reasons}
    lines: list[list[object]] = [["stage", "reason", "source", "rows"]]
    for code, source in sorted((code, source) for source, code in counts if code != KEPT):
        lines.append([stages[REASONS[code]], REASONS[code], source, counts[source, code]])
    return _csv(lines)


def _csv(lines: list[list[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()
