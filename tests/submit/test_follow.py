"""How a run's tasks are shown."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Sequence

import pytest

from components.core.kubeflow import Run, Task
from components.submit.follow import Line, RunFailed, check_ended_well, lines_of
from tests.conftest import PROJECT
from tests.submit.conftest import Server


def task(name: str, state: str, parent: str | None = None, number: int = 0, error: str = "") -> Task:
    return Task(f"{name}-{number}", name, state, "", parent, error)


def test_tasks_of_a_loop_are_one_line_below_what_holds_them() -> None:
    loop = [task("judge", state, "loop-0", number) for number, state in enumerate(("SUCCEEDED", "RUNNING", "PENDING"))]
    tasks = [task("filter", "RUNNING"), task("loop", "RUNNING", "filter-0"), *loop, task("judge-driver", "SUCCEEDED")]
    assert lines_of(tasks) == [
        Line(("filter",), "RUNNING", 0, 1),
        Line(("filter", "loop"), "RUNNING", 0, 1),
        Line(("filter", "loop", "judge"), "RUNNING", 1, 3),
    ]


def test_tasks_whose_holders_are_not_told_stand_side_by_side() -> None:
    tasks = [task("root", "RUNNING"), task("a", "SUCCEEDED"), task("executor", "RUNNING"), task("b", "RUNNING", "gone")]
    assert [(line.path, line.state) for line in lines_of(tasks)] == [(("a",), "SUCCEEDED"), (("b",), "RUNNING")]


def test_attempts_are_not_shown_and_items_of_a_list_are_one_line() -> None:
    attempts = [task("ingest(0)", "FAILED", error="evicted"), task("ingest(1)", "SUCCEEDED")]
    items = [task("iteration-item(0:1/2)", "SUCCEEDED"), task("iteration-item(1:2/2)", "RUNNING")]
    tasks = [task("ingest", "SUCCEEDED"), *attempts, *items, task("filter", "FAILED", error="out of memory")]
    assert lines_of(tasks) == [
        Line(("ingest",), "SUCCEEDED", 1, 1),
        Line(("iteration-item",), "RUNNING", 1, 2),
        Line(("filter",), "FAILED", 1, 1),
    ]
    said: list[str] = []
    with pytest.raises(RunFailed, match=r"^run mine failed in filter: "):
        check_ended_well(Run("1", "mine", "FAILED", tuple(tasks)), "http://page", said.append)
    assert said == ["filter failed: out of memory"]


@pytest.mark.parametrize(
    ("states", "state"),
    [
        (["SUCCEEDED", "FAILED", "RUNNING"], "FAILED"),
        (["SUCCEEDED", "PENDING"], "RUNNING"),
        (["PENDING", "PENDING"], "PENDING"),
        (["SKIPPED", "SKIPPED"], "SKIPPED"),
        (["SUCCEEDED", "SKIPPED"], "SUCCEEDED"),
        (["CANCELED", "RUNNING"], "CANCELED"),
    ],
)
def test_the_state_of_several_tasks_is_the_one_to_know(states: Sequence[str], state: str) -> None:
    (line,) = lines_of([task("a", each, number=number) for number, each in enumerate(states)])
    assert line.state == state


def test_what_failed_is_the_innermost_task_even_a_driver() -> None:
    said: list[str] = []
    tasks = (
        task("chain", "FAILED"),
        task("filter", "FAILED", "chain-0"),
        task("judge-driver", "FAILED", "filter-0", error="no such parameter"),
        task("score", "SUCCEEDED", "chain-0"),
    )
    with pytest.raises(RunFailed, match=r"^run mine failed in judge-driver: http://page$"):
        check_ended_well(Run("1", "mine", "FAILED", tasks), "http://page", said.append)
    assert said == ["judge-driver failed: no such parameter"]
    with pytest.raises(RunFailed, match=r"^run mine was canceled; http://page$") as raised:
        check_ended_well(Run("1", "mine", "CANCELED"), "http://page", said.append)
    assert raised.value.exit_code == 1
    check_ended_well(Run("1", "mine", "SUCCEEDED"), "http://page", said.append)


def test_a_terminal_shows_a_tree(server: Server) -> None:
    server[0].parents = True
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "components.cli", "submit", "pipelines/full.yaml", "--name", "mine", "--wait"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TERM": "xterm", "COLUMNS": "100", "LINES": "60"}
    process = subprocess.Popen(
        [*command, "--interval", "0.1"], env=environment, stderr=theirs, stdout=subprocess.PIPE, text=True
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 1 << 16):
            shown += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = shown.decode()
    last = text[text.rindex("mine") :]
    assert "├──" in last and "filter-judge" in last and "succeeded" in last
    assert "running" in text and "running" not in last
