from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.execute import map_ordered, worker_count

PARENT = """
import os, sys, time
from functools import partial
from components.core.execute import map_ordered
from tests.core.test_execute import announce
list(map_ordered(partial(announce, folder=sys.argv[1]), range(2), 2))
"""


def announce(item: int, folder: str) -> None:
    """Says who it is, then works for longer than any test waits."""
    import time

    print(f"{item} {os.getpid()}", flush=True)
    time.sleep(300)


def square(number: int) -> int:
    return number * number


def test_results_come_in_order_whatever_the_workers() -> None:
    expected = [number * number for number in range(20)]
    assert list(map_ordered(square, range(20), 1)) == expected
    assert list(map_ordered(square, range(20), 2)) == expected


def test_an_error_in_a_worker_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_ordered(invert, [1, 0], 2))


def invert(number: int) -> float:
    return 1 / number


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = [parent.stdout.readline().split()[0] for _ in range(2)]
        assert sorted(said) == ["0", "1"]
        parent.kill()
        # the pipe closes when the last process that holds it has ended: the workers would go on for five minutes
        assert parent.stdout.read() == ""


def test_zero_workers_means_every_core() -> None:
    assert worker_count(0) == len(os.sched_getaffinity(0))
    assert worker_count(3) == 3
