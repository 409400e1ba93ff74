from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.execute import LOOK_AHEAD, map_ordered, using, worker_count

PARENT = """
import os, sys, time
from functools import partial
from components.core.execute import map_ordered
from tests.core.test_execute import announce
list(map_ordered(partial(announce, folder=sys.argv[1]), range(2), 2))
"""


def announce(item: int, folder: str) -> None:
    """Says who it is, then works for longer than any test waits."""
    os.write(1, f"{item} {os.getpid()}\n".encode())  # one call, which the other worker cannot cut in two
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


def test_workers_leave_ctrl_c_to_their_parent() -> None:
    assert list(map_ordered(interrupt_oneself, range(2), 2)) == [0, 1]


def interrupt_oneself(number: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    return number


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        said = [parent.stdout.readline().split()[0] for _ in range(2)]
        parent.kill()
        assert sorted(said) == ["0", "1"]
        # the pipe closes when the last process that holds it has ended: the workers would go on for five minutes
        assert parent.stdout.read() == ""


def die_at_first(item: int, folder: str, times: int) -> int:
    """Square of the item; the process that is given 3 kills itself in the middle of it, the first `times` times."""
    time.sleep(0.05)  # so that the other worker is in the middle of an item, too
    marks = Path(folder) / "deaths"
    if item == 3 and (not marks.exists() or marks.stat().st_size < times):
        with marks.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    with (Path(folder) / "done").open("a") as file:
        file.write(f"{item}\n")
    return item * item


def test_an_item_whose_worker_was_killed_is_tried_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    work = partial(die_at_first, folder=str(tmp_path), times=2)
    with using("loky", "filter", {}):
        assert list(map_ordered(work, range(12), 2)) == [number * number for number in range(12)]
    assert sorted(map(int, (tmp_path / "done").read_text().split())) == list(range(12))  # no other item ran twice
    assert capfd.readouterr().err.splitlines() == [
        f"filter: item 3: its worker died (SIGKILL); trying again, attempt {attempt} of 3" for attempt in (2, 3)
    ]


def test_an_item_that_always_kills_its_worker_ends_with_a_clear_error(tmp_path: Path) -> None:
    results = map_ordered(partial(die_at_first, folder=str(tmp_path), times=99), range(12), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(InputError, match=r"item 3: its worker died \(SIGKILL\), 3 times in all; most likely"):
        next(results)
    assert list(map_ordered(square, range(4), 2)) == [0, 1, 4, 9]  # and the next call finds workers


def test_neither_items_nor_results_pile_up_before_a_slow_caller() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = map_ordered(square, items(), 2)
    for _ in range(5):
        next(results)
    time.sleep(0.2)
    assert len(taken) <= 5 + 2 * LOOK_AHEAD


def test_the_function_is_sent_once_and_not_with_every_item() -> None:
    """It may carry a manifest of ten thousand shards."""
    before = Heavy.pickled
    assert list(map_ordered(Heavy(), range(50), 2)) == list(range(50))
    assert Heavy.pickled == before + 1


class Heavy:
    """Counts how often it is pickled."""

    pickled = 0

    def __call__(self, item: int) -> int:
        return item

    def __reduce__(self) -> tuple[type[Heavy], tuple[()]]:
        Heavy.pickled += 1
        return Heavy, ()


def test_work_that_nobody_waits_for_any_more_is_ended(tmp_path: Path) -> None:
    results = map_ordered(partial(note_and_sleep, folder=str(tmp_path)), [0, 1], 2)
    assert next(results) == 0
    (worker,) = (int(path.name) for path in tmp_path.iterdir())
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def note_and_sleep(item: int, folder: str) -> int:
    if item:
        (Path(folder) / str(os.getpid())).touch()
        time.sleep(300)
    while not any(Path(folder).iterdir()):
        time.sleep(0.01)
    return item


def grow(item: int, by: int) -> int:
    """The item; the process keeps `by` more bytes, and works for as long as loky waits between two measurements."""
    kept.append(b"x" * by)
    time.sleep(1.1)
    return item


kept: list[bytes] = []


GROW = """
from functools import partial
from components.core.execute import map_ordered
from tests.core.test_execute import grow
print(*map_ordered(partial(grow, by=200 << 20), range(8), 2))
"""


def test_workers_that_grow_are_replaced_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, timeout=200)
    assert (done.stdout, done.stderr) == ("0 1 2 3 4 5 6 7\n", "")


def test_zero_workers_means_every_core() -> None:
    assert worker_count(0) == len(os.sched_getaffinity(0))
    assert worker_count(3) == 3
