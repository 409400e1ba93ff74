"""The gate: rules as data, each held or broken by numbers that stand beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.core.errors import UsageError
from components.register.candidate import MODEL, Candidate
from components.register.params import CHAMPION, GateRule


@dataclass(frozen=True)
class Verdict:
    """What came of one rule; `text` names the task, both values and what was wanted."""

    held: bool
    text: str


def metric_key(task: str, dim: int | None, metric: str) -> str:
    """The name of a measured value in MLflow, whose names take no `@`."""
    return "/".join(part for part in (task, str(dim) if dim else "", metric.replace("@", "_at_")) if part)


def judge(candidate: Candidate, rules: Sequence[GateRule], champion: Mapping[str, float] | None) -> list[Verdict]:
    """Hold every rule against what was measured.

    `champion` has the champion's values by `metric_key`, or is None if there is none on this suite: nothing is
    compared then. Raises UsageError for a rule on a task, metric or dimension that was not measured.
    """
    return [_judge(candidate, rule, champion, f"register.rules[{number}]") for number, rule in enumerate(rules)]


def _judge(candidate: Candidate, rule: GateRule, champion: Mapping[str, float] | None, where: str) -> Verdict:
    task = rule.task or next(iter(candidate.tasks))
    if task not in candidate.tasks:
        raise UsageError(f"{where}: task {task!r} was not measured; the suite has {', '.join(candidate.tasks)}")
    metric = rule.metric or candidate.tasks[task]
    value = candidate.value(MODEL, task, metric, rule.dim)
    if value is None:
        measured = sorted(
            {metric_key(one.task, one.dim, one.metric) for one in candidate.measured if one.system == MODEL}
        )
        raise UsageError(f"{where}: no value {metric_key(task, rule.dim, metric)}; measured: {', '.join(measured)}")
    name = f"{task} {metric}" + (f" at {rule.dim} dimensions" if rule.dim else "")
    if rule.at_least is not None:
        return Verdict(value >= rule.at_least, f"{name} {value:.2f}, at least {rule.at_least:.2f} wanted")
    other, rival = _rival(candidate, rule, champion, task, metric)
    if other is None:
        held = rule.over == (CHAMPION,)  # the first model on a suite has no champion to be compared with
        return Verdict(held, f"{name} {value:.2f}, {rival}")
    lead = f"{rule.by:+.2f}" if rule.by else "at least as much"
    return Verdict(value >= other + rule.by, f"{name} {value:.2f}, {rival} {other:.2f}, {lead} wanted")


def _rival(
    candidate: Candidate, rule: GateRule, champion: Mapping[str, float] | None, task: str, metric: str
) -> tuple[float | None, str]:
    """The value to compare with and whose it is; (None, why) if there is none."""
    if rule.over == (CHAMPION,):
        dims = rule.dim or candidate.dims
        value = None if champion is None else champion.get(metric_key(task, dims, metric))
        return value, CHAMPION if value is not None else "no champion on this suite yet"
    values = {system: candidate.value(system, task, metric, rule.dim) for system in rule.over}
    known = {system: value for system, value in values.items() if value is not None}
    if not known:
        return None, f"but none of {', '.join(rule.over)} was measured on this task"
    best = max(known, key=lambda system: known[system])
    return known[best], best
