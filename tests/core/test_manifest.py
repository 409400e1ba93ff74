from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.errors import InputError
from components.core.manifest import Dataset
from components.core.progress import Progress
from components.core.records import record_table, rejected_table


def shout(task: ShardTask, log: str) -> list[ShardOutput]:
    """Keeps even numbers, drops odd ones, and writes down that it ran."""
    with Path(log).open("a") as file:
        file.write(f"{task.name}\n")
    rows = [
        {"task": "retri_contrast", "text": f"query {n}", "text_pos": f"passage {n}", "source": "numbers"}
        for n in task.payload
        if n % 2 == 0
    ]
    odd = [{"kind": "dropped", "reason": "odd", "source": "numbers", "offset": n} for n in task.payload if n % 2]
    seen = len(task.payload)
    return [ShardOutput(record_table(rows), rejected_table(odd), {"numbers": seen}, {"seen": seen})]


def tasks(count: int = 3, key: str = "k") -> list[ShardTask]:
    return [ShardTask(f"{i:05d}", key, list(range(10 * i, 10 * i + 10))) for i in range(count)]


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_row_is_accounted_for_and_read_back(tmp_path: Path) -> None:
    dataset = build_dataset(str(tmp_path / "d"), "test", tasks(), partial(shout, log=str(tmp_path / "log")), "f")
    assert dataset.rows == 15
    assert dataset.ledger.as_dict()["dropped"] == {"numbers": {"odd": 15}}
    assert dataset.stats == {"seen": 30}
    assert dataset.read(["text"])["text"].to_pylist()[:2] == ["query 0", "query 2"]
    assert dataset.read_rejected()["offset"].to_pylist()[:2] == [1, 3]


@pytest.mark.parametrize("spelling", ["./out", "out/", "out//deep", "file://{}/o%20ut"])
def test_a_folder_may_be_spelt_in_any_way(spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = spelling.format(tmp_path)
    for _ in range(2):
        build_dataset(uri, "test", tasks(), partial(shout, log="log"), "f")
        assert len(Dataset.open(uri).read()) == 15
    assert len((tmp_path / "log").read_text().splitlines()) == 3, "the second run found every shard"


def test_bytes_do_not_depend_on_workers_or_interruption(tmp_path: Path) -> None:
    work = partial(shout, log=str(tmp_path / "log"))
    build_dataset(str(tmp_path / "one"), "test", tasks(), work, "f", workers=1)
    build_dataset(str(tmp_path / "two"), "test", tasks(), work, "f", workers=2)

    def broken(task: ShardTask) -> list[ShardOutput]:
        if task.name == "00002":
            raise KeyboardInterrupt
        return work(task)

    with pytest.raises(KeyboardInterrupt):
        build_dataset(str(tmp_path / "three"), "test", tasks(), broken, "f")
    with pytest.raises(InputError, match=r"no manifest\.json"):
        Dataset.open(str(tmp_path / "three"))
    (tmp_path / "three" / "shards" / ".00002.parquet.99.tmp").write_bytes(b"half")
    build_dataset(str(tmp_path / "three"), "test", tasks(), work, "f")
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "three")


def in_pieces(task: ShardTask, log: str, stop_after: int = 99) -> Iterator[ShardOutput]:
    """As `shout`, three numbers a shard; `position` counts numbers. Stops after some outputs, as if it were killed."""
    for made, start in enumerate(range(task.position, len(task.payload), 3)):
        if made == stop_after:
            raise KeyboardInterrupt
        part = ShardTask(f"{task.name}@{start}", task.key, task.payload[start : start + 3])
        yield replace(shout(part, log)[0], position=start + len(part.payload))


def test_a_task_with_several_outputs_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    work = partial(in_pieces, log=str(log))
    whole = build_dataset(str(tmp_path / "one"), "test", tasks(2), work, "f", workers=1)
    build_dataset(str(tmp_path / "two"), "test", tasks(2), work, "f", workers=2)
    names = [f"{task}{part}" for task in ("00000", "00001") for part in ("", "-00001", "-00002", "-00003")]
    assert [shard.name for shard in whole.shards] == names
    assert [shard.position for shard in whole.shards] == [3, 6, 9, 10] * 2
    assert whole.read(["text"])["text"].to_pylist() == [f"query {n}" for n in range(0, 20, 2)]

    three = str(tmp_path / "three")
    for stop_after in (2, 1):  # killed twice: after two outputs, then after one more
        with pytest.raises(KeyboardInterrupt):
            build_dataset(three, "test", tasks(2), partial(work, stop_after=stop_after), "f")
    log.unlink()
    build_dataset(three, "test", tasks(2), work, "f")
    assert log.read_text().split() == ["00000@9", *(f"00001@{start}" for start in (0, 3, 6, 9))]
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "three")


def test_of_a_task_with_several_outputs_only_what_follows_damage_is_made_again(tmp_path: Path) -> None:
    log, uri = tmp_path / "log", str(tmp_path / "d")
    work = partial(in_pieces, log=str(log))
    build_dataset(uri, "test", tasks(2), work, "f")
    before = tree(tmp_path / "d")
    log.unlink()
    (tmp_path / "d" / "shards" / "00001-00002.parquet").write_bytes(b"altered")
    build_dataset(uri, "test", tasks(2), work, "f")
    assert log.read_text().split() == ["00001@6", "00001@9"]
    assert tree(tmp_path / "d") == before
    build_dataset(uri, "test", tasks(1), partial(shout, log=str(log)), "other work")
    assert sorted(tree(tmp_path / "d")) == ["manifest.json", "rejected/00000.parquet", "shards/00000.parquet"]


class Watched(Progress):
    """A bar that keeps what it is given to follow, and what was counted."""

    def follow(self, measure: Callable[[], float]) -> None:
        self.measure = measure

    def advance(self, amount: float = 1) -> None:
        self.counted = getattr(self, "counted", 0) + amount


def test_progress_shows_what_is_done_of_tasks_that_are_not_finished(tmp_path: Path) -> None:
    bar, seen = Watched("shout"), []

    def work(task: ShardTask) -> Iterator[ShardOutput]:
        for output in in_pieces(task, str(tmp_path / "log")):
            seen.append((getattr(bar, "counted", 0), bar.measure()))
            yield replace(output, progress=output.position * 10)

    listed = [replace(task, payload=list(range(10)), size=100) for task in tasks(2)]
    build_dataset(str(tmp_path / "d"), "shout", listed, work, "f", progress=bar)
    assert seen == [(0, 0), (0, 30), (0, 60), (0, 90), (100, 0), (100, 30), (100, 60), (100, 90)]
    assert bar.counted == 200


def killed_in_pieces(task: ShardTask, log: str, times: int) -> Iterator[ShardOutput]:
    """As `in_pieces`; the process is killed in the middle of the third output of task 00001, `times` times."""
    for output in in_pieces(task, log):
        marks = Path(f"{log}-deaths")
        if task.name == "00001" and output.position == 9 and (not marks.exists() or marks.stat().st_size < times):
            with marks.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        yield output


def test_a_worker_killed_in_the_middle_of_a_shard_changes_no_byte(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = partial(in_pieces, log=str(tmp_path / "log"))
    build_dataset(str(tmp_path / "one"), "test", tasks(4), work, "f", workers=1)
    (tmp_path / "log").unlink()
    killed = partial(killed_in_pieces, log=str(tmp_path / "log"), times=1)
    build_dataset(str(tmp_path / "two"), "test", tasks(4), killed, "f", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert "00001: its worker died (SIGKILL); trying again, attempt 2 of 3" in capfd.readouterr().err
    made = (tmp_path / "log").read_text().split()
    # the retry goes on after the outputs whose receipts were written
    assert [made.count(f"00001@{start}") for start in (0, 3, 6, 9)] == [1, 1, 2, 1]


def test_a_task_that_always_kills_its_worker_ends_the_step_and_finished_shards_stay(tmp_path: Path) -> None:
    log, uri = tmp_path / "log", str(tmp_path / "d")
    with pytest.raises(InputError, match=r"00001: its worker died \(SIGKILL\), 3 times in all"):
        build_dataset(uri, "test", tasks(2), partial(killed_in_pieces, log=str(log), times=99), "f", workers=2)
    assert not (tmp_path / "d" / "manifest.json").exists()
    assert {"00001.parquet", "00001-00001.parquet"} <= {path.name for path in (tmp_path / "d" / "shards").iterdir()}
    log.unlink()
    build_dataset(uri, "test", tasks(2), partial(in_pieces, log=str(log)), "f")
    assert {"00001@0", "00001@3"}.isdisjoint(log.read_text().split())


def test_a_killed_task_is_complete_only_when_its_work_has_ended(tmp_path: Path) -> None:
    """Killed after the last output of a generator, before it ended: nothing is missing and nothing comes twice."""
    log, uri = tmp_path / "log", str(tmp_path / "d")
    work = partial(in_pieces, log=str(log))

    def killed_at_its_end(task: ShardTask) -> Iterator[ShardOutput]:
        yield from work(task)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(uri, "test", tasks(1), killed_at_its_end, "f")
    log.unlink()
    assert build_dataset(uri, "test", tasks(1), work, "f").ledger.rows_in == {"numbers": 10}
    assert not log.exists()


def test_outputs_that_do_not_advance_are_a_bug_that_stops_the_step(tmp_path: Path) -> None:
    def stands(task: ShardTask) -> list[ShardOutput]:
        return shout(task, str(tmp_path / "log")) * 2

    with pytest.raises(AssertionError, match="00000: output 1 does not reach beyond the one before it"):
        build_dataset(str(tmp_path / "d"), "test", tasks(1), stands, "f")
    with pytest.raises(AssertionError, match="00000: the work gave no output"):
        build_dataset(str(tmp_path / "d"), "test", tasks(1), lambda task: [], "g")


def test_only_unfinished_or_changed_shards_are_made_again(tmp_path: Path) -> None:
    log, uri = tmp_path / "log", str(tmp_path / "d")
    work = partial(shout, log=str(log))
    build_dataset(uri, "test", tasks(), work, "f")
    log.unlink()
    build_dataset(uri, "test", [*tasks(2), ShardTask("00002", "changed", [1, 2])], work, "f")
    assert log.read_text().split() == ["00002"]
    log.unlink()
    (tmp_path / "d" / "shards" / "00001.parquet").write_bytes(b"altered")
    build_dataset(uri, "test", tasks(), work, "f")
    assert log.read_text().split() == ["00001", "00002"]
    log.unlink()
    build_dataset(uri, "test", tasks(1), work, "other parameters")
    assert log.read_text().split() == ["00000"]
    assert sorted(tree(tmp_path / "d")) == ["manifest.json", "rejected/00000.parquet", "shards/00000.parquet"]


def test_a_lost_row_is_a_bug_that_stops_the_step(tmp_path: Path) -> None:
    def loses(task: ShardTask) -> list[ShardOutput]:
        (output,) = shout(task, str(tmp_path / "log"))
        return [ShardOutput(output.kept.slice(1), output.rejected, output.rows_in)]

    with pytest.raises(AssertionError, match="10 rows of numbers came in and 9 left"):
        build_dataset(str(tmp_path / "d"), "test", tasks(1), loses, "f")


def test_a_dataset_that_cannot_be_vouched_for_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "d")
    dataset = build_dataset(uri, "test", tasks(1), partial(shout, log=str(tmp_path / "log")), "f")
    shard = tmp_path / "d" / "shards" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"00000\.parquet: altered since its manifest"):
        dataset.read()
    (tmp_path / "d" / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="not a dataset manifest"):
        Dataset.open(uri)
    with pytest.raises(InputError, match=r"no manifest\.json"):
        Dataset.open(str(tmp_path))
