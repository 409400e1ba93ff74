"""The funnel of rows: how many came in, how many each step kept, and why the others left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from components.core.ledger import Ledger
from components.report.charts import ROW, Bar, Kind, bar_chart, figure_svg
from components.report.evidence import Evidence
from components.report.markup import Markup, element
from components.report.page import Block, Column, figure, note, table
from components.report.words import brief_count, count, humanise, share

STEPS = {"ingest": "After ingest", "filter": "After filter", "score": "Trained on"}
# Reasons with a bar of their own at each step; the rest share one and stand in the table.
SHOWN = 6


def by_reason(side: Mapping[str, Counter[str]]) -> list[tuple[str, int]]:
    """Reasons over all sources, the most frequent first."""
    total: Counter[str] = Counter()
    for reasons in side.values():
        total.update(reasons)
    return sorted(((reason, rows) for reason, rows in total.items() if rows), key=lambda pair: (-pair[1], pair[0]))


def step_bars(step: str, ledger: Ledger, whole: int) -> list[Bar]:
    """What a step dropped and quarantined, reason by reason from the right end, then what it kept."""
    lost = [(reason, rows, "dropped") for reason, rows in by_reason(ledger.dropped)]
    lost += [(reason, rows, "quarantined") for reason, rows in by_reason(ledger.quarantined)]
    lost.sort(key=lambda entry: (-entry[1], entry[0]))
    if len(lost) > SHOWN + 1:
        rest = lost[SHOWN:]
        lost = [*lost[:SHOWN], (f"{len(rest)} other reasons", sum(rows for _, rows, _ in rest), "dropped")]
    bars, left = [], ledger.rows_in.total()
    for reason, rows, kind in lost:
        label = f"{humanise(reason)} ({kind})" if kind == "quarantined" else humanise(reason)
        value = f"\u2212{brief_count(rows)} \u00b7 {share(rows, whole)}"
        tip = f"{step}: {count(rows)} rows {kind}: {reason}"
        colour: Kind = "doubtful" if kind == "quarantined" else "lost"
        bars.append(Bar(label, value, left - rows, left, colour, tip, inset=True))
        left -= rows
    kept = ledger.rows_out.total()
    bars.append(Bar(STEPS[step], f"{brief_count(kept)} \u00b7 {share(kept, whole)}", 0, kept, "strong"))
    return bars


def funnel_block(evidence: Evidence) -> Block:
    """The section about rows."""
    ledgers = evidence.ledgers
    read = ledgers["ingest"].rows_in.total()
    trained = ledgers["score"].rows_out.total()
    title = "Where the rows went"
    if not read:
        return Block("rows", "Rows", title, "The ledger of each step.", note("Ingest read no rows at all."))
    bars = [Bar("Read for training", brief_count(read), 0, read, "strong")]
    for step, ledger in ledgers.items():
        bars += step_bars(step, ledger, read)
    summary = f"{count(read)} rows read, {count(trained)} left to train on, with the reason for every other."
    chart = figure_svg("funnel", "Funnel of rows", summary, len(bars) * ROW, bar_chart(bars, read))
    lede = f"Of {count(read)} rows read for training, {count(trained)} ({share(trained, read)}) were left. "
    lede += f"{count(evidence.heldout_rows) if evidence.heldout_rows else 'No'} other rows are held out for evaluation."
    by_step = figure(
        "Rows by step",
        "Every row that came in is counted once: kept, dropped for a reason, or quarantined because it could not be "
        "read. Shares are of the rows read.",
        chart,
        reason_table(ledgers),
        bars=True,
    )
    return Block("rows", "Rows", title, lede, element("div", by_step, source_card(ledgers), class_="figures loose"))


def source_card(ledgers: Mapping[str, Ledger]) -> Markup:
    """What each source gave and what is left of it after each step."""
    last = ledgers["score"].rows_out
    rows = [
        (source, count(came), *(count(one.rows_out[source]) for one in ledgers.values()), share(last[source], came))
        for source, came in sorted(ledgers["ingest"].rows_in.items())
    ]
    numbers = [Column(title, number=True) for title in ("Read", "Ingested", "Filtered", "Scored", "Left")]
    grid = table((Column("Source"), *numbers), rows, "Rows by source")
    caption = element("p", "What each source gave, and what is left of it after each step.")
    return element("figure", element("figcaption", element("h3", "Rows by source"), caption), grid, class_="card")


def reason_table(ledgers: Mapping[str, Ledger]) -> Markup:
    """Step, source and reason of every rejected row."""
    rows = [
        (step, source, kind, reason, count(rows))
        for step, ledger in ledgers.items()
        for kind, side in (("dropped", ledger.dropped), ("quarantined", ledger.quarantined))
        for source, reasons in sorted(side.items())
        for reason, rows in sorted(reasons.items())
    ]
    if not rows:
        return note("No row was dropped or quarantined.")
    columns = (Column("Step"), Column("Source"), Column("Kind"), Column("Reason"), Column("Rows", number=True))
    return table(columns, rows, "Rejected rows by step, source and reason")
