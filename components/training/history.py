"""The log of a training, and what it leaves for people and plots: the loss of every step, and a few figures."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core import storage

if TYPE_CHECKING:
    from torch import Tensor

    from components.training.checkpoint import State
    from components.training.objectives import Objective

_TAIL = 20  # steps whose mean stands for a task's final loss
_COLUMNS = {"step": "q", "task": "q", "loss": "d", "lr": "d", "norm": "d", "tokens": "q"}
_PREFIX = "log/"


@dataclass(frozen=True)
class Logged:
    """One task of one step: number of the step over all phases, task, loss, learning rate.

    ``norm`` is that of the whole gradient where it was taken, ``tokens`` those of all texts of the step.
    """

    step: int
    task: str
    loss: float
    lr: float
    norm: float | None = None
    tokens: int = 0


class History:
    """The log in columns, so that a million steps are small in memory and in a checkpoint."""

    def __init__(self) -> None:
        self._tasks: list[str] = []
        self._columns = {name: array(kind) for name, kind in _COLUMNS.items()}

    def __len__(self) -> int:
        return len(self._columns["step"])

    def __getitem__(self, index: int) -> Logged:
        step, task, loss, lr, norm, tokens = (column[index] for column in self._columns.values())
        return Logged(step, self._tasks[task], loss, lr, None if math.isnan(norm) else norm, tokens)

    def __iter__(self) -> Iterator[Logged]:
        return (self[index] for index in range(len(self)))

    def add(self, step: int, losses: Mapping[str, float], lr: float, norm: float | None, tokens: int) -> None:
        """Log a step with the loss of each of its tasks."""
        for task, loss in losses.items():
            if task not in self._tasks:
                self._tasks.append(task)
            values: tuple[Any, ...] = (
                step,
                self._tasks.index(task),
                loss,
                lr,
                math.nan if norm is None else norm,
                tokens,
            )
            for column, value in zip(self._columns.values(), values, strict=True):
                column.append(value)

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order of their first step."""
        return list(self._tasks)

    @property
    def steps(self) -> int:
        """Steps logged; a step of several tasks counts once."""
        return int(self._columns["step"][-1]) + 1 if len(self) else 0

    def state(self) -> dict[str, Tensor]:
        """The columns as tensors, for a checkpoint."""
        import torch

        return {_PREFIX + name: torch.from_numpy(np.array(column)) for name, column in self._items()}

    @classmethod
    def of(cls, state: State | None) -> History:
        """The log up to the state that training goes on from."""
        history = cls()
        if state is not None:
            history._tasks = list(state.values["tasks"])
            for name, column in history._items():
                column.extend(state.tensors[_PREFIX + name].tolist())
        return history

    def _items(self) -> Iterator[tuple[str, array[Any]]]:
        return iter(self._columns.items())


def losses_csv(log: History) -> bytes:
    """The log as CSV: step, task, loss, lr, norm (empty where it was not taken), tokens."""
    lines = [
        f"{row.step},{row.task},{row.loss:.6g},{row.lr:.6g},"
        f"{'' if row.norm is None else format(row.norm, '.6g')},{row.tokens}"
        for row in log
    ]
    return "\n".join(["step,task,loss,lr,norm,tokens", *lines, ""]).encode()


def write_losses(uri: str, log: History) -> None:
    """Write the log as CSV."""
    storage.write_bytes(uri, losses_csv(log))


def final_losses(log: History) -> dict[str, float]:
    """Mean loss of each task over its last steps."""
    tails: dict[str, list[float]] = {task: [] for task in sorted(log.tasks)}
    for row in log:
        tails[row.task].append(row.loss)
    return {task: round(sum(tail[-_TAIL:]) / len(tail[-_TAIL:]), 4) for task, tail in tails.items()}


def learned_values(objectives: Iterable[Objective]) -> dict[str, dict[str, float]]:
    """What was learned beside the model, under ``learned``; nothing if nothing was."""
    found = {name: round(float(value.detach()), 6) for one in objectives for name, value in one.parameters.items()}
    return {"learned": found} if found else {}


def write_metrics(uri: str, metrics: Mapping[str, Any]) -> None:
    """Figures as JSON for ``dvc metrics show``."""
    storage.write_bytes(uri, (json.dumps(metrics, indent=1, sort_keys=True) + "\n").encode())
