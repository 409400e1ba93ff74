"""The funnel of a dataset: rows into and out of each stage, and why the others left, read from its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.core.ledger import Ledger
from components.core.manifest import Dataset
from components.filter.reasons import STAGES as FILTER_STAGES

# The stages of a step that has several; its reasons in the order in which rows meet them.
STAGES: Mapping[str, Mapping[str, tuple[str, ...]]] = {"filter": FILTER_STAGES}


@dataclass(frozen=True)
class Loss:
    """Rows that left for one reason; kind: `dropped` by a rule, or `quarantined` because they could not be read."""

    reason: str
    kind: str
    rows: int


@dataclass(frozen=True)
class Stage:
    """Rows into and out of one stage, and those it lost, the most frequent reason first."""

    name: str
    rows_in: int
    rows_out: int
    lost: tuple[Loss, ...]


@dataclass(frozen=True)
class Funnel:
    """One step's account of its rows: of a whole dataset (`source` is None) or of one source."""

    step: str
    dataset: str
    source: str | None
    rows_in: int
    rows_out: int
    stages: tuple[Stage, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def funnel(dataset: Dataset, source: str | None = None) -> Funnel:
    """The funnel of a dataset's ledger, over all sources or for one."""
    step, ledger = dataset.step, dataset.ledger
    rows_in, rows_out = (rows.total() if source is None else rows[source] for rows in (ledger.rows_in, ledger.rows_out))
    losses = {loss.reason: loss for loss in _losses(ledger, source)}
    stages, left = [], rows_in
    for name, reasons in _stages(dataset, losses):
        lost = sorted(
            (losses[reason] for reason in reasons if reason in losses), key=lambda loss: (-loss.rows, loss.reason)
        )
        after = left - sum(loss.rows for loss in lost)
        stages.append(Stage(name, left, after, tuple(lost)))
        left = after
    return Funnel(step, dataset.uri, source, rows_in, rows_out, tuple(stages))


def _stages(dataset: Dataset, losses: Collection[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Each stage of a step with its reasons. A step without stages is one; reasons that no stage knows come first."""
    named = {
        stage: (*reasons, *_classifiers(dataset, stage)) for stage, reasons in STAGES.get(dataset.step, {}).items()
    }
    others = sorted(set(losses).difference(*named.values()))
    if others or not named:
        yield "read" if named else dataset.step, others
    yield from named.items()


def _classifiers(dataset: Dataset, stage: str) -> Iterator[str]:
    """The reasons that classifiers add to a stage: the filter counts the rows that each has scored."""
    prefix = f"scored.{stage}."
    yield from (name.removeprefix(prefix) for name in dataset.stats if name.startswith(prefix))


def _losses(ledger: Ledger, source: str | None) -> Iterator[Loss]:
    for kind, side in (("dropped", ledger.dropped), ("quarantined", ledger.quarantined)):
        total: Counter[str] = Counter()
        for name, reasons in side.items():
            if source in (None, name):
                total.update(reasons)
        yield from (Loss(reason, kind, rows) for reason, rows in total.items() if rows)


MAIN_REASONS = 3  # of a source, in the table of all sources
HEADER = ("stage", "rows in", "rows out", "kept", "lost", "of rows in", "reason")


def table(funnels: list[Funnel]) -> list[tuple[str, ...]]:
    """Cells of a table with HEADER: a line a step, below it a line for each stage that lost rows, with its reasons.

    `kept` and `of rows in` are per cent; the latter of the step's rows.
    """
    lines: list[tuple[str, ...]] = []
    for each in funnels:
        losing = [stage for stage in each.stages if stage.lost]
        several = len(each.stages) > 1
        lost = each.rows_in - each.rows_out
        head = (_count(each.rows_in), _count(each.rows_out), _percent(each.rows_out, each.rows_in))
        lines.append((each.step, *head, _count(lost), _percent(lost, each.rows_in), ""))
        for stage in losing:
            name, numbers = "", ("", "", "")
            if several:
                name = f"  {stage.name}"
                numbers = (_count(stage.rows_in), _count(stage.rows_out), _percent(stage.rows_out, stage.rows_in))
            for loss in stage.lost:
                reason = loss.reason if loss.kind == "dropped" else f"{loss.reason} (quarantined)"
                lines.append((name, *numbers, _count(loss.rows), _percent(loss.rows, each.rows_in), reason))
                name, numbers = "", ("", "", "")
    return lines


def source_table(datasets: Sequence[Dataset], sources: Sequence[str]) -> list[tuple[str, ...]]:
    """Header and cells of a table with a line for each source: rows into the first of the datasets that has it, rows
    that each dataset kept, the share that the last one with it kept, and the MAIN_REASONS most frequent reasons.
    """
    lines = [("source", "rows in", *(each.step for each in datasets), "kept", "lost for")]
    for source in sources:
        found = [funnel(each, source) if source in each.ledger.rows_in else None for each in datasets]
        there = [each for each in found if each is not None]
        lost: Counter[str] = Counter()
        for each in there:
            lost.update({loss.reason: loss.rows for stage in each.stages for loss in stage.lost})
        ranked = sorted(lost.items(), key=lambda item: (-item[1], item[0]))
        reasons = [f"{reason} {_count(rows)}" for reason, rows in ranked[:MAIN_REASONS]]
        if ranked[MAIN_REASONS:]:
            reasons.append(f"{len(ranked) - MAIN_REASONS} more")
        kept = ("–" if each is None else _count(each.rows_out) for each in found)
        share = _percent(there[-1].rows_out, there[0].rows_in)
        lines.append((source, _count(there[0].rows_in), *kept, share, ", ".join(reasons)))
    return lines


def _count(rows: int) -> str:
    return f"{rows:,}"


def _percent(part: int, whole: int) -> str:
    """To 0.1; "<0.1" and ">99.9" where rounding would say none or all."""
    if not whole:
        return "–"
    share = 100 * part / whole
    if 0 < share < 0.05:
        return "<0.1 %"
    return ">99.9 %" if 99.95 <= share < 100 else f"{share:.1f} %"
