"""The batch plan: a pure function of (seed, epoch, step, rank, world) to row numbers.

Batches hold rows of one task only (homogeneous, as in Piccolo2), tasks alternate in proportion to their batches,
and no text occurs twice in a batch of a task that uses in-batch negatives, since a repeated text would be its own
negative. Nothing about a run's past enters, so a resumed run sees the same batches as an undisturbed one.

Drop-last rule: an epoch consists of full batches. The rows that do not fill one (the remainder, and the rows whose
texts clash with every open batch) wait for the next epoch, whose order is another. A task with fewer rows than a batch
makes one smaller batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TaskRows:
    """Rows of one task: ``texts`` holds the text ids that must be distinct within a batch, uint64 [N, K].

    K is 0 for a task without in-batch negatives, where a repeated text does no harm. ``repeat`` [N] is how often an
    epoch draws each row (Piccolo2's meta list); its copies never meet in a batch whose texts must be distinct.
    """

    name: str
    texts: npt.NDArray[np.uint64]
    batch_size: int
    repeat: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Batch:
    """Rows of one task in a step, over all processes: row numbers into the task's rows, int64 [b]."""

    task: str
    rows: npt.NDArray[np.int64]
    role: int = 0


@dataclass(frozen=True)
class Schedule:
    """How tasks share the steps."""

    sampling: Literal["proportional"] = "proportional"


class BatchPlan:
    """Batches of several tasks. ``batch_size`` counts the rows of a step over all processes."""

    def __init__(self, tasks: Sequence[TaskRows], seed: int, schedule: Schedule | None = None) -> None:
        self._tasks = [task for task in tasks if len(task)]
        self._seed = seed
        self._schedule = schedule or Schedule()
        self._epoch = lru_cache(maxsize=8)(self._plan_epoch)

    def steps(self, epoch: int) -> int:
        """Steps of this epoch (epochs may differ by a few: the no-duplicates rule leaves different rows over)."""
        return len(self._epoch(epoch))

    def batches(self, epoch: int, step: int) -> list[Batch]:
        """What ``step`` of ``epoch`` trains on."""
        name, rows = self._epoch(epoch)[step]
        return [Batch(name, rows)]

    def describe(self, epoch: int = 0) -> dict[str, int]:
        """Number of steps of each task in an epoch."""
        counts = {task.name: 0 for task in self._tasks}
        for name, _ in self._epoch(epoch):
            counts[name] += 1
        return counts

    def _plan_epoch(self, epoch: int) -> list[tuple[str, npt.NDArray[np.int64]]]:
        batches = []
        for index, task in enumerate(self._tasks):
            drawn = np.repeat(np.arange(len(task)), task.repeat)
            rng = np.random.default_rng([self._seed, epoch, index])
            filled = fill_batches(task.texts[drawn], task.batch_size, rng)
            batches.append([drawn[batch] for batch in filled])
        order = interleave([len(task_batches) for task_batches in batches])
        return [(self._tasks[task].name, batches[task][turn]) for task, turn in order]


def fill_batches(
    texts: npt.NDArray[np.uint64], batch_size: int, rng: np.random.Generator
) -> list[npt.NDArray[np.int64]]:
    """Full batches of shuffled rows in which no text id repeats; see the module's drop-last rule.

    ``texts``: uint64 [N, K]. A row whose text is already in the open batch waits for the next one.
    """
    order = rng.permutation(len(texts))
    if texts.shape[1] == 0:
        size = min(batch_size, len(order))
        return [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
    keys = [frozenset(row) for row in texts[order].tolist()]
    batches: list[npt.NDArray[np.int64]] = []
    waiting: list[int] = []
    position = 0
    while position < len(keys) or len(waiting) >= batch_size:
        seen: set[int] = set()
        chosen: list[int] = []
        still_waiting: list[int] = []
        for index, row in enumerate(waiting):
            if len(chosen) == batch_size:
                still_waiting.extend(waiting[index:])
                break
            if seen.isdisjoint(keys[row]):
                seen |= keys[row]
                chosen.append(row)
            else:
                still_waiting.append(row)
        while len(chosen) < batch_size and position < len(keys):
            if seen.isdisjoint(keys[position]):
                seen |= keys[position]
                chosen.append(position)
            else:
                still_waiting.append(position)
            position += 1
        waiting = still_waiting
        if len(chosen) < batch_size and batches:
            break
        batches.append(order[chosen])
        if len(chosen) < batch_size:
            break
    return batches


def interleave(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Proportional order of ``counts[t]`` batches of each task t: (task, number of the batch within the task).

    Each task's batches are spread evenly, so that any stretch of steps holds the tasks in their overall proportion.
    """
    turns = [((turn + 0.5) / count, task, turn) for task, count in enumerate(counts) for turn in range(count)]
    return [(task, turn) for _, task, turn in sorted(turns)]
