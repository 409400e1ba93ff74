"""The batch plan: a pure function of (seed, epoch, step) to row numbers, which the processes then share.

A step trains on the batches that the schedule gives it: one batch of one task (homogeneous, as in Piccolo2), or one of
every task at once (``balanced``: Conan's cross-GPU batch balance). No text occurs twice in a batch of a task that uses
in-batch negatives, since a repeated text would be its own negative. Batch sizes are those of a step over all processes:
rank r of W works on its part of each batch, and nothing else depends on W. Nothing about a run's past enters either, so
a resumed run sees the same batches as an undisturbed one, on as many processes as it likes.

Drop-last rule: an epoch consists of full batches. The rows that do not fill one (the remainder, and the rows whose
texts clash with every open batch) wait for the next epoch, whose order is another. A task with fewer rows than a batch
makes one smaller batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from components.core.errors import UsageError
from components.training.filling import Filled, edges_of, fill_batches

Sampling = Literal["proportional", "round_robin", "weighted", "balanced"]

# What a parameter file calls each task of the records.
TASK_OF = {"retrieval": "retri_contrast", "similarity": "cosent", "classes": "cls_contrast"}
_SECTION_OF = {task: section for section, task in TASK_OF.items()}

_SHOWN = 3  # steps that a description of the plan spells out


@dataclass(frozen=True)
class TaskRows:
    """Rows of one task: ``texts`` holds the text ids that must be distinct within a batch, integers [N, K].

    K is 0 for a task without in-batch negatives, where a repeated text does no harm. ``repeat`` [N] is how often an
    epoch draws each row (Piccolo2's meta list); its copies never meet in a batch whose texts must be distinct.
    ``batch_size`` counts the rows of a batch over all processes. ``group`` [N] numbers the source of each row, for
    batches of one source; ``tokens`` [N] counts what a row adds to a batch, for batches with a budget of tokens;
    ``ids`` [N] are the records' ids, by which people find them.
    """

    name: str
    texts: npt.NDArray[np.integer[Any]]
    batch_size: int
    repeat: npt.NDArray[np.int64]
    group: npt.NDArray[np.integer[Any]] | None = None
    tokens: npt.NDArray[np.integer[Any]] | None = None
    ids: npt.NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Roles:
    """How many processes' worth of each task a balanced step holds (Conan: four of retrieval, one of similarity).

    The retrieval roles share one batch of queries and positives, and each brings negatives of its own; each role of
    similarity and of classes brings a batch of its own.
    """

    retrieval: int = 4
    similarity: int = 1
    classes: int = 0

    def of(self, task: str) -> int:
        """Number of roles of the records' ``task``."""
        return int(getattr(self, _SECTION_OF[task])) if task in _SECTION_OF else 0

    @property
    def total(self) -> int:
        """Number of all roles."""
        return self.retrieval + self.similarity + self.classes


@dataclass(frozen=True)
class Schedule:
    """How the batches of several tasks follow one another.

    - ``proportional``: every batch of every task once an epoch, tasks spread evenly.
    - ``round_robin``: one batch of each task in turn until one of them has none left, which ends the epoch
      (sentence-transformers' sampler). What the others have left is not trained on in this epoch; the next one has
      another order, so no row is left out for good.
    - ``weighted``: as many steps as ``proportional``, shared out by ``weights`` (task → weight). A task that is used up
      is drawn again in a new order; one that gets fewer steps than it has batches leaves the others for the next epoch.
    - ``balanced``: every step holds every task that has ``roles``. Retrieval's batches make the epoch; the other tasks
      are drawn again in new orders as often as it takes.

    ``batch_tokens`` ends a batch before it exceeds a budget of tokens, even if it has fewer than ``batch_size`` rows;
    rows of similar length come together, so that batches fill their budget with many short texts or a few long ones.
    ``same_source`` makes batches of one source each (BGE's same-dataset batches). ``section``
    is where messages say the parameters stand, such as ``finetune``.
    """

    sampling: Sampling = "proportional"
    weights: Mapping[str, float] = field(default_factory=dict)
    roles: Roles = Roles()
    batch_tokens: int | None = None
    same_source: bool = False
    section: str = ""

    def key(self, *names: str) -> str:
        """The full name of a parameter."""
        return ".".join(filter(None, (self.section, *names)))


@dataclass(frozen=True)
class Batch:
    """Rows of a task to train on together, int64 [b]: a step's whole batch, of which a process does its share.

    ``role`` numbers the batches of one task in a balanced step.
    """

    task: str
    rows: npt.NDArray[np.int64]
    role: int = 0


class BatchPlan:
    """The batches of several tasks. Raises UsageError if the schedule does not fit the tasks."""

    def __init__(self, tasks: Sequence[TaskRows], seed: int, schedule: Schedule | None = None) -> None:
        self.schedule = schedule or Schedule()
        present = [task for task in tasks if len(task)]
        check_tasks(self.schedule, [task.name for task in present])
        _check_budget(self.schedule, present)
        self._seed, self._streams = seed, {task.name: stream for stream, task in enumerate(present)}
        self.unused = [task for task in present if not self._share(task)]
        trained = [task for task in present if self._share(task)]
        # the batches of retrieval make a balanced epoch
        self.tasks = sorted(trained, key=lambda task: self._balanced and task.name != TASK_OF["retrieval"])
        self._fill = lru_cache(maxsize=2 * len(self.tasks) + 1)(self._fill_task)
        self._turns = lru_cache(maxsize=2)(self._order_epoch)
        self._firsts: dict[tuple[int, int], list[int]] = {}

    def steps(self, epoch: int) -> int:
        """Steps of this epoch (epochs may differ by a few: the no-duplicates rule leaves different rows over)."""
        return len(self._fill(0, epoch, 0)) if self._balanced else len(self._turns(epoch))

    def batches(self, epoch: int, turn: int) -> list[Batch]:
        """What step ``turn`` of ``epoch`` trains on: one batch, or in a balanced plan those of every role."""
        if not self._balanced:
            task, number = self._turns(epoch)[turn].tolist()
            return [Batch(self.tasks[task].name, self._batch(task, epoch, number))]
        batches = [Batch(self.tasks[0].name, self._batch(0, epoch, turn))]
        for index, task in enumerate(self.tasks[1:], 1):
            count = self._roles(task)
            for role in range(count):
                batches.append(Batch(task.name, self._batch(index, epoch, turn * count + role), role))
        return batches

    def names(self, batch: Batch) -> list[str]:
        """What messages call the rows of a batch: their records' ids, or where a task has none their numbers."""
        ids = next(task.ids for task in self.tasks if task.name == batch.task)
        return [f"row {row}" if ids is None else f"record {ids[row]}" for row in batch.rows]

    def counts(self, epoch: int = 0) -> dict[str, int]:
        """Number of batches of each task in an epoch."""
        if self._balanced:
            steps = self.steps(epoch)
            own = [steps, *(steps * self._roles(task) for task in self.tasks[1:])]
        else:
            own = np.bincount(self._turns(epoch)[:, 0], minlength=len(self.tasks)).tolist()
        return {task.name: count for task, count in zip(self.tasks, own, strict=True)}

    def describe(self, epoch: int = 0) -> dict[str, Any]:
        """The plan of an epoch in numbers: steps, and by task its rows, batches, roles and rows left over."""
        tasks = {}
        for index, (task, batches) in enumerate(zip(self.tasks, self.counts(epoch).values(), strict=True)):
            filled, drawn = self._fill(index, epoch, 0), int(task.repeat.sum())
            tasks[task.name] = {
                "rows": len(task),
                "drawn": drawn,
                "batch_size": task.batch_size,
                "batches": batches,
                "passes": batches / len(filled),
                "left_over": drawn - int(filled.edges[min(batches, len(filled))]),
                "roles": self._roles(task) if self._balanced else 1,
            }
        first = [self.batches(epoch, turn) for turn in range(min(_SHOWN, self.steps(epoch)))]
        return {
            "sampling": self.schedule.sampling,
            "steps": self.steps(epoch),
            "tasks": tasks,
            "unused": {task.name: len(task) for task in self.unused},
            "first": [
                [{"task": each.task, "role": each.role, "rows": each.rows.tolist()} for each in step] for step in first
            ],
        }

    @property
    def _balanced(self) -> bool:
        return self.schedule.sampling == "balanced"

    def _roles(self, task: TaskRows) -> int:
        return self.schedule.roles.of(task.name)

    def _batch(self, index: int, epoch: int, number: int) -> npt.NDArray[np.int64]:
        """Batch ``number`` of a task in an epoch, which draws the task again when it is used up."""
        firsts = self._firsts.setdefault((index, epoch), [0])
        while firsts[-1] <= number:
            firsts.append(firsts[-1] + len(self._fill(index, epoch, len(firsts) - 1)))
        time = bisect_right(firsts, number) - 1
        return self._fill(index, epoch, time)[number - firsts[time]]

    def _fill_task(self, index: int, epoch: int, time: int) -> Filled:
        """The batches of a task, drawn for the ``time``-th time (from 0) in an epoch."""
        task, schedule = self.tasks[index], self.schedule
        rng = np.random.default_rng([self._seed, epoch, self._streams[task.name], *([time] if time else [])])
        drawn = _drawn(task)
        if not schedule.same_source or task.group is None:
            filled = self._fill_rows(task, drawn, rng)
            return filled.shuffled(rng) if schedule.batch_tokens else filled
        by_group = np.argsort(task.group[drawn], kind="stable")
        edges = np.flatnonzero(np.diff(task.group[drawn[by_group]])) + 1
        parts = [self._fill_rows(task, drawn[part], rng) for part in np.split(by_group, edges)]
        sizes = np.concatenate([np.diff(part.edges) for part in parts])
        return Filled(np.concatenate([part.rows for part in parts]), edges_of(sizes)).shuffled(rng)

    def _fill_rows(self, task: TaskRows, drawn: npt.NDArray[np.int32], rng: np.random.Generator) -> Filled:
        """Batches of the rows ``drawn`` of a task."""
        budget = self.schedule.batch_tokens
        if budget is None or task.tokens is None:
            filled = fill_batches(task.texts[drawn], task.batch_size, rng)
        else:
            filled = fill_batches(task.texts[drawn], task.batch_size, rng, task.tokens[drawn], budget)
        return Filled(drawn[filled.rows], filled.edges)

    def _order_epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """The steps of an epoch as (task, number of the batch within the task), [S, 2]."""
        counts = [len(self._fill(index, epoch, 0)) for index in range(len(self.tasks))]
        match self.schedule.sampling:
            case "round_robin":
                turn, task = np.divmod(np.arange(min(counts, default=0) * len(counts)), max(1, len(counts)))
                return np.stack([task, turn], axis=1)
            case "weighted":
                return interleave(apportion(sum(counts), [self._share(task) for task in self.tasks]))
            case _:
                return interleave(counts)

    def _share(self, task: TaskRows) -> float:
        """The weight of a task in a weighted schedule, the number of its roles in a balanced one, else 1."""
        match self.schedule.sampling:
            case "weighted":
                weights = {TASK_OF.get(name, name): weight for name, weight in self.schedule.weights.items()}
                return float(weights[task.name])
            case "balanced":
                return self._roles(task)
            case _:
                return 1.0


class Turns(Sequence[tuple[int, int]]):
    """The steps of several epochs, which have ``steps`` each: step s as (epoch, step of the epoch)."""

    def __init__(self, steps: Sequence[int]) -> None:
        self._edges = edges_of(np.array(steps, dtype=np.int64)).tolist()

    def __len__(self) -> int:
        return int(self._edges[-1])

    @overload
    def __getitem__(self, step: int) -> tuple[int, int]: ...

    @overload
    def __getitem__(self, step: slice) -> list[tuple[int, int]]: ...

    def __getitem__(self, step: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(step, slice):
            return [self[each] for each in range(*step.indices(len(self)))]
        number = step + len(self) if step < 0 else step
        if not 0 <= number < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        epoch = bisect_right(self._edges, number) - 1
        return epoch, number - self._edges[epoch]


def check_tasks(schedule: Schedule, tasks: Collection[str]) -> None:
    """Raise UsageError if the schedule does not fit the ``tasks`` that have records; a plan asks this too."""
    names = set(tasks)
    there = ", ".join(sorted(_SECTION_OF.get(name, name) for name in names)) or "none"
    if schedule.sampling == "weighted":
        key = schedule.key("schedule", "weights")
        known = {*TASK_OF, *TASK_OF.values(), *names}
        for name, weight in schedule.weights.items():
            if name not in known:
                raise UsageError(f"{key}: no task is named {name}; allowed: {there}")
            if not 0 <= weight < float("inf"):
                raise UsageError(f"{key}.{name}: {weight}; allowed: numbers from 0")
        given = {TASK_OF.get(name, name): weight for name, weight in schedule.weights.items()}
        missing = [_SECTION_OF.get(name, name) for name in sorted(names - given.keys())]
        if missing:
            raise UsageError(f"{key}: no weight for {', '.join(missing)}; give 0 to leave a task out")
        if names and not any(given[name] for name in names):
            raise UsageError(f"{key}: 0 for every task that has records ({there}); allowed: at least one above 0")
    if schedule.sampling == "balanced":
        key = schedule.key("schedule", "roles")
        for section, name in TASK_OF.items():
            count = schedule.roles.of(name)
            if count < 0:
                raise UsageError(f"{key}.{section}: {count}; allowed: 0 or more")
            if count and name not in names:
                raise UsageError(
                    f"{key}.{section}: {count} roles for an empty task (no {name} records); tasks with records: {there}"
                )
        if not schedule.roles.retrieval:
            raise UsageError(f"{key}.retrieval: 0; a balanced schedule counts its steps by it; allowed: 1 or more")


def check_world(plan: BatchPlan, world: int) -> None:
    """Raise UsageError if ``world`` processes cannot share the plan's steps evenly."""
    schedule = plan.schedule
    if schedule.sampling == "balanced":
        total = schedule.roles.total
        if total % world:
            raise UsageError(
                f"{schedule.key('schedule', 'roles')}: {total} roles do not spread over {world} processes; "
                f"allowed: a sum of roles that {world} divides"
            )
        return
    for task in plan.tasks if schedule.batch_tokens is None else ():
        if task.batch_size % world:
            raise UsageError(
                f"{schedule.key(_SECTION_OF.get(task.name, task.name), 'batch_size')}: {task.batch_size} rows do not "
                f"divide among {world} processes; allowed: multiples of {world}"
            )


def plan_lines(plan: BatchPlan, epochs: int = 1, world: int = 1) -> list[str]:
    """The plan as lines for people: how tasks alternate, what an epoch draws of each, and its first steps."""
    about, schedule = plan.describe(), plan.schedule
    steps = sum(plan.steps(epoch) for epoch in range(epochs))
    lines = [f"{schedule.sampling} schedule: {steps:,} steps in {epochs} epochs, {about['steps']:,} in the first"]
    for name, task in about["tasks"].items():
        line = f"{name}: {task['drawn']:,} rows in {task['batches']:,} batches of {task['batch_size']:,} rows"
        if schedule.batch_tokens:
            line += f" or {schedule.batch_tokens:,} tokens"
        if plan.schedule.sampling == "balanced":
            line += f", {task['roles']} role{'s' if task['roles'] > 1 else ''} in every step"
        if task["passes"] > 1:
            line += f", drawn {task['passes']:.1f} times, each in a new order"
        lines.append(f"{line}; {task['left_over']:,} rows left over")
    lines += [f"{name}: {rows:,} rows without a role, not trained on" for name, rows in about["unused"].items()]
    for turn, step in enumerate(about["first"]):
        parts = (f"{each['task']} × {len(each['rows'])} {_some(each['rows'])}" for each in step)
        lines.append(f"step {turn}: {', '.join(parts)}")
    if world > 1:
        lines.append(f"{world} processes share each step")
    return lines


def interleave(counts: Sequence[int]) -> npt.NDArray[np.int64]:
    """Proportional order of ``counts[t]`` batches of each task t: (task, number of the batch within the task), [S, 2].

    Each task's batches are spread evenly, so that any stretch of steps holds the tasks in their overall proportion.
    """
    task = np.repeat(np.arange(len(counts)), counts)
    turn = np.concatenate([np.arange(count) for count in (0, *counts)])
    moment = (turn + 0.5) / np.asarray(counts, dtype=np.float64)[task]
    order = np.lexsort((turn, task, moment))
    return np.stack([task[order], turn[order]], axis=1)


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """``total`` shared out in proportion to ``weights``, whole numbers, by the method of largest remainders."""
    shares = np.asarray(weights, dtype=np.float64) * (total / sum(weights))
    whole = np.floor(shares).astype(np.int64)
    most_missed = np.argsort(whole - shares, kind="stable")
    whole[most_missed[: total - int(whole.sum())]] += 1
    return [int(each) for each in whole]


def _check_budget(schedule: Schedule, tasks: Sequence[TaskRows]) -> None:
    """Raise UsageError if a row alone exceeds the budget of tokens."""
    if schedule.batch_tokens is not None:
        for task in tasks:
            if task.tokens is None:
                raise ValueError(f"{task.name}: a budget of tokens needs the tokens of each row")
            longest = int(task.tokens.max())
            if longest > schedule.batch_tokens:
                raise UsageError(
                    f"{schedule.key('schedule', 'batch_tokens')}: {schedule.batch_tokens} holds not every row of "
                    f"{task.name}, the longest takes {longest} tokens; allowed: {longest} or more, or fewer max_tokens"
                )


def _drawn(task: TaskRows) -> npt.NDArray[np.int32]:
    """The rows that an epoch draws, a row as often as it is to be repeated."""
    rows = np.arange(len(task), dtype=np.int32)
    return rows if (task.repeat == 1).all() else np.repeat(rows, task.repeat)


def _some(rows: Sequence[int]) -> str:
    """The first few row numbers, in brackets."""
    return f"[{', '.join(map(str, rows[:4]))}{', …' if len(rows) > 4 else ''}]"
