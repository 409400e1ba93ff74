"""Each batch is trained on exactly once: polled twice, killed in between, started at once, stopped and started."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from components.core.errors import InputError
from components.core.fingerprint import digest_bytes
from components.core.reproduce import ChainFailed
from components.flywheel.local import LocalChain
from components.flywheel.poller import open_store, poll
from components.flywheel.versions import Store
from tests.fixtures.seaweed import S3Bucket
from tests.flywheel.conftest import Project

ROW = {"query": "read csv", "clicked": "csv.reader", "skipped": ["csv.writer"]}
OTHER = {"query": "open socket", "clicked": "socket.socket"}


class Chain:
    """Stands in for the chain inside this process: remembers what it was run on."""

    def __init__(self, fails: int = 0) -> None:
        self.versions: list[str] = []
        self.rows: list[int] = []
        self.fails = fails

    def __call__(self) -> None:
        if self.fails:
            self.fails -= 1
            raise ChainFailed("dvc repro ended with exit code 3", 3)
        current = json.loads(Path("data/feedback/current.json").read_text())
        self.versions.append(current["version"])
        self.rows.append(sum(file["rows"] for file in current["files"]))


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.path)
    return project


def test_a_new_file_is_a_new_version_and_is_trained_on_once(here: Project) -> None:
    chain, said = Chain(), list[str]()
    assert poll("feedback/", said.append, LocalChain(chain)) == 0  # no folder yet
    here.feed("a.jsonl", ROW, OTHER)
    here.feed("notes.txt", "not feedback")
    here.feed(".part.jsonl", ROW)
    assert poll("feedback/", said.append, LocalChain(chain)) == 1
    assert poll("feedback/", said.append, LocalChain(chain)) == 0
    here.feed("copy.jsonl", ROW, OTHER)  # the same content under another name
    assert poll("feedback/", said.append, LocalChain(chain)) == 0
    here.feed("sub/b.jsonl", OTHER)
    assert poll("feedback/", said.append, LocalChain(chain)) == 1
    assert chain.rows == [2, 3]
    assert said[-1].startswith("batch 2: done")
    claims = open_store("feedback/").claims()
    assert [claim.version for claim in claims] == chain.versions


def test_versions_are_immutable_cumulative_and_named_by_their_content(here: Project) -> None:
    chain = Chain()
    here.feed("a.jsonl", ROW)
    poll("feedback/", print, LocalChain(chain))
    here.feed("b.jsonl", OTHER)
    (here.path / "feedback/a.jsonl").unlink()  # what was taken does not hang on the folder any more
    poll("feedback/", print, LocalChain(chain))
    for path in Path("data/feedback/versions").iterdir():
        assert digest_bytes(path.read_bytes()) == path.stem
    current = json.loads(Path("data/feedback/current.json").read_text())
    assert current["version"] == chain.versions[1]
    assert (
        json.loads(Path(f"data/feedback/versions/{chain.versions[1]}.json").read_text())["parent"] == chain.versions[0]
    )
    for file in current["files"]:
        assert digest_bytes(Path(file["uri"]).read_bytes()) == file["sha256"]
        assert len(Path(file["uri"]).read_text().splitlines()) == file["rows"]
    assert len(current["files"]) == 2
    Path(f"data/feedback/versions/{chain.versions[1]}.json").write_text("{}")
    with pytest.raises(InputError, match="altered since it was written"):
        Store("data/feedback").version(chain.versions[1])


def test_the_same_feedback_gives_the_same_version_in_another_place(
    here: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Chain(), Chain()
    here.feed("a.jsonl", ROW)
    here.feed("b.jsonl", OTHER)
    poll("feedback/", print, LocalChain(first))
    elsewhere = here.path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    Project(elsewhere).feed("z.jsonl", OTHER)
    Project(elsewhere).feed("y.jsonl", ROW)
    poll("feedback", print, LocalChain(second))
    assert first.versions == second.versions


def test_bad_rows_are_named_and_set_aside_and_a_bad_file_is_refused_once(here: Project) -> None:
    chain, said = Chain(), list[str]()
    here.feed("a.jsonl", ROW, "{", OTHER)
    here.feed("b.jsonl", "nothing", "useful")
    assert poll("feedback/", said.append, LocalChain(chain)) == 1
    assert chain.rows == [2]
    assert "feedback/a.jsonl, line 2: not valid JSON; the row is set aside" in said
    assert "feedback/b.jsonl: no usable row; the file is refused" in said
    assert [json.loads(path.read_text())["line"] for path in Path("data/feedback/rejected").iterdir()] == [2]
    said.clear()
    assert poll("feedback/", said.append, LocalChain(chain)) == 0
    assert said == ["feedback/: nothing new"]
    Path("feedback/b.jsonl").write_text(json.dumps(ROW | {"query": "repaired"}))
    assert poll("feedback/", said.append, LocalChain(chain)) == 1


def test_a_chain_that_failed_is_tried_again_with_the_same_version(here: Project) -> None:
    chain = Chain(fails=1)
    here.feed("a.jsonl", ROW)
    with pytest.raises(ChainFailed, match="batch 1: dvc repro ended with exit code 3; it stays claimed"):
        poll("feedback/", print, LocalChain(chain))
    here.feed("b.jsonl", OTHER)
    assert poll("feedback/", print, LocalChain(chain)) == 2  # the batch that was left, then the new one
    assert chain.rows == [1, 2]


def test_two_pollers_at_once_train_once(project: Project) -> None:
    project.feed("a.jsonl", ROW)
    (project.path / "hold").touch()
    pollers = [project.start("poll") for _ in range(3)]
    project.wait_for(lambda: project.training() and sum(poller.poll() is not None for poller in pollers) == 2)
    (project.path / "hold").unlink()
    said = [poller.communicate()[1] for poller in pollers]
    assert [poller.returncode for poller in pollers] == [0, 0, 0]
    assert len(project.trainings()) == 1
    assert sum("is running already" in words for words in said) == 2


def test_a_killed_poller_takes_its_chain_along_and_the_next_one_finishes(project: Project) -> None:
    project.feed("a.jsonl", ROW)
    (project.path / "hold").touch()
    killed = project.start("poll")
    project.wait_for(project.training)
    chain = int((project.path / "started").read_text())
    project.feed("b.jsonl", OTHER)  # arrives during the training
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    project.wait_for(lambda: not _alive(chain))
    assert project.trainings() == []
    (project.path / "hold").unlink()
    said = project.poll()
    assert "batch 1 was left unfinished; going on with it" in said
    assert [rows for _, rows in project.trainings()] == [1, 2]
    assert "nothing new" in project.poll()
    assert len(project.trainings()) == 2


@pytest.mark.parametrize("moment", ["add_version", "claim", "current", "finish"])
def test_a_poller_that_dies_between_two_writes_loses_and_doubles_nothing(
    here: Project, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Died(BaseException):
        pass

    trained: list[str] = []

    def chain() -> None:  # like `dvc repro`, it does nothing for data that it has trained on
        version = json.loads(Path("data/feedback/current.json").read_text())["version"]
        if version not in trained:
            trained.append(version)

    here.feed("a.jsonl", ROW)
    real = getattr(Store, moment)
    for before in (True, False):

        def die(*arguments: object, before: bool = before) -> object:
            if not before:
                real(*arguments)
            raise Died

        with monkeypatch.context() as patch:
            patch.setattr(Store, moment, die)
            with pytest.raises(Died):
                poll("feedback/", print, LocalChain(chain))
    poll("feedback/", print, LocalChain(chain))
    assert poll("feedback/", print, LocalChain(chain)) == 0
    claims = open_store("feedback/").claims()
    assert [claim.version for claim in claims] == trained
    assert len(trained) == 1


def test_watch_trains_and_stops_cleanly(project: Project) -> None:
    watch = project.start("watch", "--interval", "0.1")
    project.feed("a.jsonl", ROW)
    project.wait_for(lambda: len(project.trainings()) == 1)
    project.feed("b.jsonl", OTHER)
    project.wait_for(lambda: len(project.trainings()) == 2)
    watch.send_signal(signal.SIGTERM)
    _, said = watch.communicate(timeout=60)
    assert watch.returncode == 0
    assert said.splitlines()[-1] == "flywheel: stopped"
    status = project.start("status").communicate()[0].splitlines()
    assert [line.split("state")[0].split()[0] for line in status] == ["batch", "1", "2"]
    project.poll()
    assert "done: model version 3, gate passed" in project.start("status").communicate()[0].splitlines()[2]


def test_watch_stopped_in_the_middle_of_a_training_ends_it_too(project: Project) -> None:
    project.feed("a.jsonl", ROW)
    (project.path / "hold").touch()
    watch = project.start("watch", "--interval", "0.1")
    project.wait_for(project.training)
    chain = int((project.path / "started").read_text())
    watch.send_signal(signal.SIGINT)
    watch.communicate(timeout=60)
    assert not _alive(chain)
    (project.path / "hold").unlink()
    project.poll()
    assert len(project.trainings()) == 1


def test_pollers_in_two_places_share_a_prefix(tmp_path: Path, s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.core import storage

    feedback = f"{s3.uri}/feedback"
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    here, there = Chain(), Chain(fails=1)
    storage.write_bytes(f"{feedback}/a.jsonl", json.dumps(ROW).encode())
    monkeypatch.chdir(second)
    with pytest.raises(ChainFailed):
        poll(feedback, print, LocalChain(there))
    monkeypatch.chdir(first)
    said: list[str] = []
    assert poll(feedback, said.append, LocalChain(here)) == 0  # it may still be at work
    assert "claimed by a poller elsewhere" in said[0]
    monkeypatch.chdir(second)
    assert poll(feedback, print, LocalChain(there)) == 1
    monkeypatch.chdir(first)
    assert poll(feedback, print, LocalChain(here)) == 0
    storage.write_bytes(f"{feedback}/b.jsonl", json.dumps(OTHER).encode())
    assert poll(feedback, print, LocalChain(here)) == 1
    assert (there.rows, here.rows) == ([1], [2])
    current = json.loads(Path("data/feedback/current.json").read_text())
    assert all(file["uri"].startswith(f"{feedback}/_flywheel/files/") for file in current["files"])
    storage.write_bytes(f"{feedback}/c.jsonl", json.dumps(ROW | {"query": "other"}).encode())
    here.fails = 1
    with pytest.raises(ChainFailed):
        poll(feedback, print, LocalChain(here))
    monkeypatch.chdir(second)
    assert poll(feedback, print, LocalChain(there), take_over=True) == 1
    assert (there.rows, here.rows) == ([1, 3], [2])


def _alive(process: int) -> bool:
    """Whether a process is there and not just waiting to be collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
