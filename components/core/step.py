"""A step is declared once; its command line, its pipeline component and the checks of dvc.yaml come from that."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from components.core import environment
from components.core.execute import worker_count
from components.core.part import Part
from components.core.progress import Progress
from components.core.settings import RunParams, Section

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True)
class Port:
    """An input or output: a command-line option, and by default a path below the project's folder."""

    name: str
    kind: Literal["dataset", "model", "file", "folder"]
    default: str
    summary: str
    optional: bool = False
    shows: Literal["metrics", "page"] | None = None
    """How Kubeflow Pipelines shows it beside the task: as numbers, or as a page."""


@dataclass(frozen=True)
class Resources:
    """What one instance of a step asks of a cluster: cores, memory in GiB, GPUs."""

    cpu: int = 1
    memory_gib: int = 4
    gpu: int = 0


@dataclass(frozen=True)
class Step:
    """One step of the chain. `run` names its function ("package.module:function"), so that declaring imports little."""

    name: str
    summary: str
    sections: Mapping[str, type[Section]]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    run: str
    image: Literal["data", "train", "serve"] = "data"
    resources: Resources = field(default_factory=Resources)
    parallel: bool = False
    """Whether several processes, started by torchrun, may run it together."""

    forecast: str | None = None
    """Names the function that says what a run would take, without running ("package.module:function")."""

    stages: tuple[str, ...] = ()
    """Parts of its work, in order, that several pods can share ahead of it (`--stage NAME --part K/N`)."""

    volatile: bool = False
    """Whether its result hangs on more than its inputs, such as what lies at URIs or what a server knows."""

    hours: int = 24
    """Longest that one attempt may take on a cluster."""

    def execute(self, context: Context, forecast: bool = False) -> None:
        """Import the step's code and run it, or its forecast."""
        module, _, function = str(self.forecast if forecast else self.run).partition(":")
        getattr(importlib.import_module(module), function)(context)


@dataclass(frozen=True)
class Context:
    """What a step is given: its typed parameters, and where its inputs and outputs are (by port name)."""

    step: str
    run: RunParams
    sections: Mapping[str, Section]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Every section as it was given, overrides included, for a step that records the run."""

    part: Part | None = None
    """What to do ahead of the step and no more, of a stage that it declares; None is the step itself."""

    def section(self, model: type[AnySection]) -> AnySection:
        """The parameters of the section that `model` describes."""
        return next(section for section in self.sections.values() if isinstance(section, model))

    @property
    def seed(self) -> int:
        """Seed of every random choice."""
        return self.run.seed

    @property
    def threads(self) -> int:
        """Threads of the numerical libraries."""
        return self.run.threads

    @property
    def workers(self) -> int:
        """Worker processes of the data steps, at least one."""
        return worker_count(self.run.workers)

    def progress(self, label: str, total: float | None = None, unit: str = "rows") -> Progress:
        """A progress bar for the body of a `with`, quiet unless standard error is a terminal."""
        return Progress(label, total, unit)

    def log(self, message: str) -> None:
        """One line for the person who watches, on standard error; of several processes only the first one speaks."""
        if environment.rank() == 0:
            print(f"{self.step}: {message}", file=sys.stderr, flush=True)
