"""What came of the trials: a value for each, mean and spread over seeds, the best combination."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from components.core.errors import InputError
from components.core.fingerprint import canonical_json, json_document
from components.sweep.params import METRIC, SweepParams
from components.sweep.trials import Trial, axes, lay

MODEL = "model"
DIGITS = 4


@dataclass(frozen=True)
class Outcome:
    """A trial's value to go by beside the score and every task's main metric at full dimension.

    Or why it has none, and the exit code of the step that failed.
    """

    trial: Trial
    value: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""
    exit_code: int = 0


@dataclass(frozen=True)
class Combination:
    """A combination of values over its seeds: mean and sample standard deviation, 0 with one seed.

    `mean` is None unless every seed came to an end: fewer seeds would be another measurement.
    """

    values: Mapping[str, Any]
    name: str
    mean: float | None
    spread: float
    seeds: int


@dataclass(frozen=True)
class Results:
    """All outcomes of a sweep, in the order of its plan."""

    params: SweepParams
    outcomes: Sequence[Outcome]

    @property
    def axes(self) -> dict[str, list[Any]]:
        """What was tried, by key."""
        return axes([outcome.trial for outcome in self.outcomes])

    @property
    def failed(self) -> list[Outcome]:
        """The outcomes without a value."""
        return [outcome for outcome in self.outcomes if outcome.failure]

    @property
    def combinations(self) -> list[Combination]:
        """One for each combination of values, in order."""
        by_point: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            by_point.setdefault(outcome.trial.point, []).append(outcome)
        return [_combine(name, outcomes) for name, outcomes in by_point.items()]

    def best(self, where: Mapping[str, Any] | None = None) -> Combination | None:
        """The combination with the best mean, of those with these values; of equal ones the first by name.

        None if none of them came to an end.
        """
        sign = -1 if self.params.direction == "max" else 1
        wanted = (where or {}).items()
        there = [each for each in self.combinations if all(each.values[key] == value for key, value in wanted)]
        finished = [(sign * each.mean, each.name, each) for each in there if each.mean is not None]
        return min(finished, key=lambda each: each[:2])[2] if finished else None

    def columns(self) -> list[str]:
        """Names of the columns of `rows`."""
        seed = ["seed"] if self.params.seeds else []
        return ["trial", *self.axes, *seed, *self._values(), "state"]

    def rows(self) -> list[list[str]]:
        """A line for each trial; what it has no value for is empty."""
        return [
            [
                outcome.trial.name,
                *(_cell(outcome.trial.values[key]) for key in self.axes),
                *([_cell(outcome.trial.seed)] if self.params.seeds else []),
                *(_number(value) for value in self._values(outcome).values()),
                f"failed: {outcome.failure}" if outcome.failure else "done",
            ]
            for outcome in self.outcomes
        ]

    def csv(self) -> bytes:
        """The table as a file."""
        lines = io.StringIO(newline="")
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(self.columns())
        writer.writerows(self.rows())
        return lines.getvalue().encode()

    def json(self) -> bytes:
        """All of it as a file: trials, combinations and the best one."""
        best = self.best()
        return json_document(
            {
                "metric": self.params.metric,
                "direction": self.params.direction,
                "trials": [
                    {
                        "name": outcome.trial.name,
                        "values": dict(outcome.trial.values),
                        "seed": outcome.trial.seed,
                        "value": outcome.value,
                        "figures": dict(outcome.figures),
                        "failure": outcome.failure or None,
                        "exit_code": outcome.exit_code,
                    }
                    for outcome in self.outcomes
                ],
                "combinations": [
                    {"name": each.name, "values": dict(each.values), "mean": each.mean, "sd": each.spread}
                    | {"seeds": each.seeds}
                    for each in self.combinations
                ],
                "best": None if best is None else {"name": best.name, "values": dict(best.values), "mean": best.mean},
            }
        )

    def recipe(self) -> bytes:
        """The best combination as an overlay of params.yaml; empty if no trial came to an end."""
        best = self.best()
        if best is None:
            return b"# No trial of the sweep came to an end.\n{}\n"
        head = f"# The best of {len(self.combinations)} combinations: {self.summary()}.\n"
        return (head + yaml.safe_dump(lay({}, best.values), sort_keys=False, allow_unicode=True)).encode()

    def summary(self) -> str:
        """The best value and its combination in words."""
        best = self.best()
        if best is None or best.mean is None:
            return "no trial came to an end"
        spread = f" ± {best.spread:.2f} over {best.seeds} seeds" if best.seeds > 1 else ""
        values = ", ".join(f"{key} {_cell(value)}" for key, value in best.values.items())
        return f"{self.params.metric} {best.mean:.2f}{spread}{f' with {values}' if values else ''}"

    def _values(self, outcome: Outcome | None = None) -> dict[str, float | None]:
        """The value to go by and then the other figures; of one outcome, or only their names."""
        names = dict.fromkeys([self.params.metric, *(name for each in self.outcomes for name in each.figures)])
        if outcome is None:
            return dict(names)
        return {name: outcome.value if name == self.params.metric else outcome.figures.get(name) for name in names}


def outcome_of(trial: Trial, params: SweepParams, metrics: Any, origin: str) -> Outcome:
    """The outcome of a trial whose `reports/evaluate/metrics.json` is `metrics`.

    Raises InputError, naming `origin`, if the metric to go by is not there.
    """
    try:
        by_task: dict[str, dict[str, float]] = metrics["systems"][MODEL]
        figures = {"score": float(metrics["score"])}
        figures |= {task: by_dim[max(by_dim, key=int)] for task, by_dim in by_task.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{origin}: no metrics of an evaluation ({type(error).__name__}: {error})") from None
    named = METRIC.fullmatch(params.metric)
    assert named is not None
    task, dim = named["task"], named["dim"]
    value = figures.get(params.metric) if dim is None else by_task.get(task, {}).get(dim)
    if value is None or not math.isfinite(value):
        known = ", ".join(["score", *(f"{task}@{'|'.join(by_dim)}" for task, by_dim in by_task.items())])
        raise InputError(f"{origin}: no {params.metric}; sweep.metric may be {known}")
    return Outcome(trial, value, figures)


def _combine(name: str, outcomes: Sequence[Outcome]) -> Combination:
    values = [outcome.value for outcome in outcomes if outcome.value is not None]
    whole = len(values) == len(outcomes)
    mean = round(statistics.fmean(values), DIGITS) if whole else None
    spread = round(statistics.stdev(values), DIGITS) if whole and len(values) > 1 else 0.0
    return Combination(outcomes[0].trial.values, name, mean, spread, len(outcomes))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.{DIGITS}f}"
