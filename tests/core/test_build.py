"""A dataset made in parts, or by several runs at the same place at once, has the bytes of one undisturbed run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from components.core import storage
from components.core.build import ShardOutput, ShardTask, build_ahead, build_dataset, open_finished
from components.core.errors import InputError
from components.core.manifest import Dataset
from components.core.part import Part
from components.core.records import record_table, rejected_table
from tests.fixtures.seaweed import S3Bucket

TASKS = 7
forked = multiprocessing.get_context("fork")


def number_output(numbers: list[int]) -> ShardOutput:
    rows = [
        {"task": "retri_contrast", "text": f"query {n}", "text_pos": f"passage {n}", "source": "numbers"}
        for n in numbers
        if n % 2 == 0
    ]
    odd = [{"kind": "dropped", "reason": "odd", "source": "numbers", "offset": n} for n in numbers if n % 2]
    return ShardOutput(record_table(rows), rejected_table(odd), {"numbers": len(numbers)})


def in_pieces(task: ShardTask, pause: float = 0.0) -> Iterator[ShardOutput]:
    """Three numbers a shard; `position` counts numbers."""
    for start in range(task.position, len(task.payload), 3):
        time.sleep(pause)
        made = number_output(task.payload[start : start + 3])
        yield ShardOutput(made.kept, made.rejected, made.rows_in, position=min(start + 3, len(task.payload)))


def tasks(key: str = "k") -> list[ShardTask]:
    return [ShardTask(f"{i:05d}", f"{key}{i}", list(range(10 * i, 10 * i + 4 + i))) for i in range(TASKS)]


def contents(uri: str) -> dict[str, bytes]:
    return {info.uri.removeprefix(uri): storage.read_bytes(info.uri) for info in storage.list_files(uri)}


def everything(folder: Path) -> list[str]:
    """Hidden files and empty folders too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """What one undisturbed run makes."""
    uri = str(tmp_path / "whole")
    build_dataset(uri, "test", tasks(), in_pieces, "f")
    return contents(uri)


def ahead(uri: str, number: int, count: int, pause: float = 0.0) -> None:
    build_ahead(uri, "test", Part("shards", number, count).own(tasks()), partial(in_pieces, pause=pause), "f")


@pytest.mark.parametrize("order", [[1], [1, 2], [2, 1], [3, 1, 2], [5, 2, 4, 1, 3], [9, 8, 7, 6, 5, 4, 3, 2, 1]])
def test_parts_in_any_order_then_the_rest_give_the_bytes_of_one_run(
    order: list[int], tmp_path: Path, whole: dict[str, bytes]
) -> None:
    uri = str(tmp_path / "d")
    for number in order:
        ahead(uri, number, len(order))
        with pytest.raises(InputError, match=r"no manifest\.json"):
            Dataset.open(uri)

    def never(task: ShardTask) -> Iterator[ShardOutput]:
        raise AssertionError(f"{task.name} was done by a part")

    build_dataset(uri, "test", tasks(), never, "f")
    assert contents(uri) == whole
    assert everything(tmp_path / "d") == everything(tmp_path / "whole")


def test_parts_that_never_ran_or_were_killed_are_made_up_for(tmp_path: Path, whole: dict[str, bytes]) -> None:
    uri = str(tmp_path / "d")
    ahead(uri, 1, 3)
    killed = forked.Process(target=ahead, args=(uri, 2, 3, 0.05))
    killed.start()
    while not list((tmp_path / "d" / "_work").glob("00001*")):  # its first shard has a receipt
        time.sleep(0.005)
    assert killed.pid
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    build_dataset(uri, "test", tasks(), in_pieces, "f")  # and the third part never ran
    assert contents(uri) == whole
    assert everything(tmp_path / "d") == everything(tmp_path / "whole")


def make(uri: str, pause: float, go: Any) -> None:
    go.wait()
    build_dataset(uri, "test", tasks(), partial(in_pieces, pause=pause), "f")


def read_all(uri: str, stop: Any) -> None:
    """Reads the dataset until told to stop; ends with an error where it is not there whole."""
    while not stop.is_set():
        dataset = Dataset.open(uri)
        dataset.read()
        dataset.read_rejected()


def run_at_once(targets: list[Callable[[], None]]) -> list[Any]:
    processes = [forked.Process(target=target) for target in targets]
    for process in processes:
        process.start()
    return processes


def check_equal_runs_at_once(uri: str, whole: dict[str, bytes]) -> None:
    """Several runs make the same dataset at once, then again while others read it."""
    for pauses in ([0.0, 0.0, 0.0], [0.0, 0.01, 0.03]):
        storage.remove_tree(uri)
        go = forked.Event()
        runs = run_at_once([partial(make, uri, pause, go) for pause in pauses])
        go.set()
        for process in runs:
            process.join(60)
        assert [process.exitcode for process in runs] == [0] * len(runs)
        assert contents(uri) == whole

    stop, go = forked.Event(), forked.Event()
    reader = run_at_once([partial(read_all, uri, stop)])
    for damage in (False, True):
        if damage:  # what has to be mended is not vouched for, so nobody reads it
            stop.set()
            reader[0].join(60)
            storage.write_bytes(storage.join(uri, "shards", "00004.parquet"), b"damaged")
        go.clear()
        runs = run_at_once([partial(make, uri, 0.0, go) for _ in range(2)])
        go.set()
        for process in runs:
            process.join(60)
        assert [process.exitcode for process in (*runs, *reader * damage)] == [0] * (2 + damage)
        assert contents(uri) == whole


def test_equal_runs_at_once_and_readers_do_not_disturb_each_other(tmp_path: Path, whole: dict[str, bytes]) -> None:
    check_equal_runs_at_once(str(tmp_path / "d"), whole)
    assert everything(tmp_path / "d") == everything(tmp_path / "whole")


def test_equal_runs_at_once_and_readers_do_not_disturb_each_other_in_a_bucket(
    s3: S3Bucket, whole: dict[str, bytes]
) -> None:
    check_equal_runs_at_once(f"{s3.uri}/deep/d", whole)


def test_the_manifest_goes_before_a_shard_changes_and_not_otherwise(tmp_path: Path, whole: dict[str, bytes]) -> None:
    uri = str(tmp_path / "d")
    build_dataset(uri, "test", tasks(), in_pieces, "f")
    manifest = tmp_path / "d" / "manifest.json"
    before = manifest.stat()

    def mends(task: ShardTask) -> Iterator[ShardOutput]:
        assert manifest.exists()
        yield from in_pieces(task)
        assert manifest.exists()

    (tmp_path / "d" / "shards" / "00003.parquet").unlink()
    build_dataset(uri, "test", tasks(), mends, "f")
    assert (manifest.stat().st_ino, manifest.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def killed(task: ShardTask) -> Iterator[ShardOutput]:
        yield number_output([1])
        assert not manifest.exists(), "00003 is another one now"
        raise KeyboardInterrupt

    changed = [*tasks()[:3], ShardTask("00003", "changed", [1]), *tasks()[4:]]
    with pytest.raises(KeyboardInterrupt):
        build_dataset(uri, "test", changed, killed, "f")
    build_dataset(uri, "test", tasks(), in_pieces, "f")
    assert contents(uri) == whole


def test_a_finished_dataset_is_known_by_what_it_was_made_from(tmp_path: Path) -> None:
    uri = str(tmp_path / "d")
    made = build_dataset(uri, "test", tasks(), in_pieces, "f", made_from="inputs", reports={"counts": "1,2"})
    found = open_finished(uri, "test", "f", "inputs", 1)
    assert found is not None
    assert (found.digest, found.reports) == (made.digest, {"counts": "1,2"})
    assert open_finished(uri, "test", "f", "other inputs", 1) is None
    assert open_finished(uri, "test", "g", "inputs", 1) is None
    assert open_finished(uri, "step", "f", "inputs", 1) is None
    assert open_finished(str(tmp_path), "test", "f", "inputs", 1) is None
    (tmp_path / "d" / "rejected" / "00003.parquet").write_bytes(b"damaged")
    assert open_finished(uri, "test", "f", "inputs", 1) is None
