"""What training leaves for people and plots: the loss of every step, and a few figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from components.core import storage
from components.training.loop import Logged

_TAIL = 20  # steps whose mean stands for a task's final loss


def write_losses(uri: str, log: Sequence[Logged]) -> None:
    """The log as CSV: step, task, loss, lr."""
    lines = [f"{row.step},{row.task},{row.loss:.6g},{row.lr:.6g}" for row in log]
    storage.write_bytes(uri, "\n".join(["step,task,loss,lr", *lines, ""]).encode())


def final_losses(log: Sequence[Logged]) -> dict[str, float]:
    """Mean loss of each task over its last steps."""
    tasks = sorted({row.task for row in log})
    tails = {task: [row.loss for row in log if row.task == task][-_TAIL:] for task in tasks}
    return {task: round(sum(tail) / len(tail), 4) for task, tail in tails.items()}


def write_metrics(uri: str, metrics: Mapping[str, Any]) -> None:
    """Figures as JSON for ``dvc metrics show``."""
    storage.write_bytes(uri, (json.dumps(metrics, indent=1, sort_keys=True) + "\n").encode())
