"""Following a run: a tree of its tasks that changes on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from components.core.errors import EmbedmillError
from components.core.kubeflow import CANCELED, ENDED, FAILED, SKIPPED, SUCCEEDED, Pipelines, PipelinesError, Run, Task

# What the platform adds to each task for itself.
PLUMBING = ("-driver", "-executor")
INNER = ("root", "executor", "driver")
# Argo numbers the attempts of a task that may be tried again, `task(1)`, and what it makes of a list, `task(1:item)`.
ATTEMPT, ITEM = re.compile(r"\(\d+\)$"), re.compile(r"\(\d+:.*\)$")
RUNNING, PENDING = "RUNNING", "PENDING"
STYLES = {SUCCEEDED: "green", FAILED: "red", CANCELED: "red", RUNNING: "yellow", SKIPPED: "dim", PENDING: "dim"}

Log = Callable[[str], None]


class RunFailed(EmbedmillError):
    """A run ended, and not well."""


@dataclass(frozen=True)
class Line:
    """Tasks of one name that one task holds, by the names from the top: `ended` of `count` are over."""

    path: tuple[str, ...]
    state: str
    ended: int
    count: int

    @property
    def of(self) -> str:
        """How many of several are over."""
        return f" {self.ended}/{self.count}" if self.count > 1 else ""


def lines_of(tasks: Sequence[Task]) -> list[Line]:
    """The tasks as a tree, those of one name in one line; flat where the API does not tell which task holds which."""
    shown = [task for task in tasks if not _is_plumbing(task)]
    known = {task.id for task in shown}

    def below(parents: set[str | None], path: tuple[str, ...]) -> Iterator[Line]:
        held = [task for task in shown if (task.parent if task.parent in known else None) in parents]
        for name in dict.fromkeys(ITEM.sub("", task.name) for task in held):
            same = [task for task in held if ITEM.sub("", task.name) == name]
            ended = sum(task.state in ENDED for task in same)
            yield Line((*path, name), _state([task.state for task in same]), ended, len(same))
            yield from below({task.id for task in same}, (*path, name))

    return list(below({None}, ()))


def follow(pipelines: Pipelines, run_id: str, seconds: float, log: Log) -> Run:
    """Look at a run every so many seconds until it ends. An API that is away for a while does not end it.

    Raises PipelinesError if the API answers and does not let us look any more.
    """
    with _view(log) as show:
        away = False
        while True:
            try:
                run = pipelines.run(run_id)
            except PipelinesError as error:
                if not error.transient:
                    raise
                if not away:
                    log(f"{error}; the run goes on, looking again")
                away = True
            else:
                away = False
                show(run)
                if run.ended:
                    return run
            time.sleep(seconds)


def check_ended_well(run: Run, url: str, log: Log) -> None:
    """Say which tasks failed and why. Raises RunFailed unless the run has succeeded."""
    if run.state == SUCCEEDED:
        return
    recovered = {task.name for task in run.tasks if task.state == SUCCEEDED}
    failed = [
        task
        for task in run.tasks
        if task.state == FAILED and not (ATTEMPT.search(task.name) and ATTEMPT.sub("", task.name) in recovered)
    ]
    holders = {task.parent for task in failed}
    causes = [task for task in failed if task.id not in holders]  # who holds a failed task has failed for it
    for task in causes:
        log(f"{task.name} failed: {task.error or 'no message'}")
    if run.state == FAILED:
        names = ", ".join(dict.fromkeys(task.name for task in causes))
        raise RunFailed(f"run {run.name} failed{f' in {names}' if names else ''}: {run.error or url}")
    raise RunFailed(f"run {run.name} was {run.state.lower()}; {url}")


def _state(states: Sequence[str]) -> str:
    for state in (FAILED, CANCELED):
        if state in states:
            return state
    if all(state in (SUCCEEDED, SKIPPED) for state in states):
        return SUCCEEDED if SUCCEEDED in states else SKIPPED
    return RUNNING if RUNNING in states or SUCCEEDED in states else PENDING


def _is_plumbing(task: Task) -> bool:
    """Whether people are better off without a task: a driver that has not failed, an attempt."""
    if ATTEMPT.search(task.name):
        return True
    return task.state != FAILED and (task.name in INNER or task.name.endswith(PLUMBING))


def _view(log: Log) -> Any:
    return _Tree() if sys.stderr.isatty() else _Changes(log)


class _Changes:
    """A line whenever the state of tasks of one name is another one, and one for the run."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._before: dict[tuple[str, ...], str] = {}
        self._run = ""

    def __enter__(self) -> Callable[[Run], None]:
        return self.show

    def __exit__(self, *raised: object) -> None:
        pass

    def show(self, run: Run) -> None:
        for line in lines_of(run.tasks):
            if self._before.get(line.path) != line.state:
                self._log(f"{'/'.join(line.path)} {line.state.lower()}{line.of}")
            self._before[line.path] = line.state
        if run.state != self._run:
            self._log(f"run {run.state.lower()}")
        self._run = run.state


class _Tree:
    """The tree of tasks, drawn anew in its place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(stderr=True), auto_refresh=False)

    def __enter__(self) -> Callable[[Run], None]:
        self._live.__enter__()
        return self.show

    def __exit__(self, *raised: Any) -> None:
        self._live.__exit__(*raised)

    def show(self, run: Run) -> None:
        from rich.text import Text
        from rich.tree import Tree

        tree = Tree(Text.assemble(run.name, " ", (run.state.lower(), STYLES.get(run.state, ""))))
        above = [tree]
        for line in lines_of(run.tasks):
            text = Text.assemble(line.path[-1], " ", (line.state.lower(), STYLES.get(line.state, "")), line.of)
            above = [*above[: len(line.path)], above[len(line.path) - 1].add(text)]
        self._live.update(tree, refresh=True)
