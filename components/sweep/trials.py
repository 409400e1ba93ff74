"""The trials of a grid: every combination of values, once for each seed, in the order of the grid."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components import chain
from components.core import settings
from components.core.errors import InputError, UsageError
from components.core.fingerprint import canonical_json, digest_json
from components.core.settings import RunParams
from components.sweep.params import SweepParams

# The steps whose parameters can be tried, and those that measure what comes of it.
TRIED = ("pretrain", "finetune")
SEED = "run.seed"
NAME_CHARACTERS = 8


@dataclass(frozen=True)
class Trial:
    """One combination of values, by dotted key, and a seed if the sweep has any."""

    values: Mapping[str, Any]
    seed: int | None = None

    @property
    def point(self) -> str:
        """The name of the combination: the same wherever it stands in whichever grid."""
        return digest_json(dict(self.values))[:NAME_CHARACTERS]

    @property
    def name(self) -> str:
        """The name of the trial."""
        return self.point if self.seed is None else f"{self.point}-{self.seed}"

    @property
    def overrides(self) -> dict[str, Any]:
        """All that the trial changes, by dotted key."""
        return {**self.values, **({} if self.seed is None else {SEED: self.seed})}

    @property
    def pretraining(self) -> dict[str, Any]:
        """What of it changes pretraining; where that is nothing, all trials share one, whatever their seed."""
        own = {key: value for key, value in self.values.items() if key.startswith("pretrain.")}
        return {**own, **({} if self.seed is None else {SEED: self.seed})} if own else {}

    @property
    def title(self) -> str:
        """What tells it from the others, for people."""
        words = [f"{key.rpartition('.')[2]}={canonical_json(value)}" for key, value in self.values.items()]
        return " ".join([*words, *([] if self.seed is None else [f"seed={self.seed}"])]) or "as it is"

    def encode(self) -> dict[str, str]:
        """As the tasks of a pipeline get it: all strings, since Kubeflow makes 1.0 of a 1 and knows no null."""
        overrides, pretraining = canonical_json(self.overrides), canonical_json(self.pretraining)
        return {"name": self.name, "overrides": overrides, "pretrain": pretraining}


def plan(parameters: Mapping[str, Any], origin: str) -> list[Trial]:
    """The trials that the section `sweep` asks for, each held against the sections that it changes.

    Raises UsageError for what cannot be tried.
    """
    sweep = settings.parse_section("sweep", SweepParams, parameters.get("sweep"), origin)
    assert isinstance(sweep, SweepParams)
    for key in sweep.grid:
        if key.partition(".")[0] not in TRIED or "." not in key:
            allowed = " and ".join(TRIED)
            raise UsageError(f"{origin}: sweep.grid: {key}: allowed are keys of {allowed}, such as finetune.lr")
    sizes = [len(values) for values in sweep.grid.values()] + ([len(sweep.seeds)] if sweep.seeds else [])
    count = 1
    for size in sizes:
        count *= size
    if count > sweep.trials:
        product = " × ".join(map(str, sizes))
        raise UsageError(f"{origin}: sweep.grid: {product} = {count} trials; allowed by sweep.trials: {sweep.trials}")
    trials = []
    seeds: list[int | None] = [*sweep.seeds] or [None]
    for values in itertools.product(*sweep.grid.values()):
        chosen = dict(zip(sweep.grid, values, strict=True))
        check(lay(parameters, chosen), f"{origin}: sweep.grid")
        trials += [Trial(chosen, seed) for seed in seeds]
    return trials


def lay(parameters: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with values by dotted key in place of theirs."""
    result = dict(parameters)
    for key, value in overrides.items():
        *path, last = key.split(".")
        target = result
        for part in path:
            child = target.get(part)
            target[part] = dict(child) if isinstance(child, Mapping) else {}
            target = target[part]
        target[last] = value
    return result


def check(parameters: Mapping[str, Any], origin: str) -> None:
    """Raise UsageError for a value that a step would refuse."""
    settings.parse_section("run", RunParams, parameters.get("run"), origin)
    for name in TRIED:
        for section, model in chain.step(name).sections.items():
            settings.parse_section(section, model, parameters.get(section), origin)


def decode(text: str, origin: str) -> list[Trial]:
    """Trials from the JSON list of what `encode` makes of them. Raises InputError."""
    try:
        listed = [json.loads(each["overrides"]) for each in json.loads(text)]
        if not listed:
            raise ValueError("it is empty")
        return [Trial(values, values.pop(SEED, None)) for values in listed]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{origin}: no list of trials ({type(error).__name__}: {error})") from None


def axes(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    """The keys that trials differ in, each with its values in order of appearance."""
    found: dict[str, list[Any]] = {}
    for trial in trials:
        for key, value in trial.values.items():
            values = found.setdefault(key, [])
            if value not in values:
                values.append(value)
    return found
