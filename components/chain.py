"""The chain: every step in order, and the sections of params.yaml that they read."""

from __future__ import annotations

import importlib
from functools import lru_cache

from components.core.settings import RunParams, Section
from components.core.step import Step

ORDER = ("sources", "ingest", "filter", "score", "pretrain", "finetune", "export", "evaluate", "register", "report")
# Sections of commands that are no step of the chain: section name → "module:class".
EXTRA = {
    "flywheel": "components.flywheel.params:FlywheelParams",
    "sweep": "components.sweep.params:SweepParams",
}


@lru_cache(maxsize=len(ORDER))
def step(name: str) -> Step:
    """The declaration of one step."""
    declared = importlib.import_module(f"components.{name}.step").STEP
    assert isinstance(declared, Step)
    return declared


def steps() -> list[Step]:
    """All declarations, in the order of the chain."""
    return [step(name) for name in ORDER]


def sections() -> dict[str, type[Section]]:
    """Every section of params.yaml with its model."""
    known: dict[str, type[Section]] = {"run": RunParams}
    for declared in steps():
        known.update(declared.sections)
    for name, place in EXTRA.items():
        module, _, model = place.partition(":")
        known[name] = getattr(importlib.import_module(module), model)
    return known
