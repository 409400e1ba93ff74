"""A claimed version becomes one run of the pipeline, whoever dies when; how the run ends is how the batch does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from components.core import storage
from components.core.fingerprint import json_document
from components.core.kubeflow import PipelinesError, Run
from components.core.reproduce import ChainFailed
from components.flywheel import cluster
from components.flywheel.cluster import PipelineRuns, run_name
from components.flywheel.local import LocalChain
from components.flywheel.poller import open_store, poll
from components.flywheel.versions import Claim, Store
from tests.fixtures.seaweed import S3Bucket

ROW = {"query": "read csv", "clicked": "csv.reader", "skipped": ["csv.writer"]}
OTHER = {"query": "open socket", "clicked": "socket.socket"}


@dataclass
class FakePipelines:
    """Stands in for the connection to Kubeflow: it keeps runs, and like the API it would keep two of one name."""

    runs: list[Run] = field(default_factory=list)
    given: list[Mapping[str, Any]] = field(default_factory=list)

    def find_run(self, name: str) -> Run | None:
        return next((run for run in reversed(self.runs) if run.name == name), None)

    def start_run(
        self,
        name: str,
        experiment: str,
        package: Mapping[str, Any],
        parameters: Mapping[str, Any],
        account: str,
        before: Callable[[], None],
    ) -> Run:
        before()
        assert (experiment, package, account) == ("embedmill", {"pipeline_spec": {}}, "embedmill-train")
        self.runs.append(Run(f"id-{len(self.runs) + 1}", name, "PENDING"))
        self.given.append(parameters)
        return self.runs[-1]

    def run(self, run_id: str) -> Run:
        found = next((run for run in self.runs if run.id == run_id), None)
        if found is None:
            raise PipelinesError("not found", 404)
        return found

    def url(self, run_id: str) -> str:
        return f"http://kfp/{run_id}"

    def become(self, state: str, error: str = "") -> None:
        """Let the last run reach a state."""
        self.runs[-1] = replace(self.runs[-1], state=state, error=error)

    def leave(self, gate: str) -> None:
        """Let the last run register a model."""
        storage.write_bytes(self.given[-1]["result_uri"], json_document({"version": 3, "gate": gate}))


@dataclass
class Place:
    """Feedback in a bucket, and what polls it."""

    feedback: str
    fake: FakePipelines = field(default_factory=FakePipelines)
    said: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return open_store(self.feedback)

    def feed(self, name: str, *rows: Mapping[str, Any]) -> None:
        storage.write_bytes(f"{self.feedback}/{name}", b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    def poll(self, attempts: int = 2) -> int:
        pipelines: Any = self.fake
        runs = PipelineRuns(
            pipelines, {"pipeline_spec": {}}, {"recipe": "zh"}, attempts=attempts, service_account="embedmill-train"
        )
        return poll(self.feedback, self.said.append, runs)


@pytest.fixture
def place(s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.01)
    return Place(f"{s3.uri}/feedback")


def test_a_batch_is_a_run_and_is_done_with_what_the_run_registered(place: Place) -> None:
    assert place.poll() == 0
    place.feed("a.jsonl", ROW, OTHER)
    assert place.poll() == 0
    claim = place.store.claims()[0]
    assert [run.name for run in place.fake.runs] == [run_name(place.store.root, claim, 1)]
    given = place.fake.given[0]
    assert {key: given[key] for key in ("recipe", "data_version")} == {"recipe": "zh", "data_version": ""}
    pointer = json.loads(storage.read_bytes(given["feedback"]))
    assert pointer["version"] == claim.version
    assert [file["rows"] for file in pointer["files"]] == [2]
    place.feed("b.jsonl", OTHER)  # waits for its turn
    assert place.poll() == 0
    place.fake.become("RUNNING")
    assert place.poll() == 0
    assert place.said[-1] == f"batch 1: run {place.fake.runs[0].name} is running"
    place.fake.become("SUCCEEDED")
    place.fake.leave("passed")
    assert place.poll() == 1
    assert "batch 1: done, model version 3, gate passed" in place.said
    assert place.store.result(1) == {"version": claim.version, "model_version": 3, "gate": "passed"}
    assert len(place.fake.runs) == 2  # the same poll went on with what had come meanwhile
    assert place.fake.given[1]["feedback"] != given["feedback"]


def test_a_failed_run_is_tried_again_so_many_times_and_then_left(place: Place) -> None:
    place.feed("a.jsonl", ROW)
    place.poll()
    place.fake.become("FAILED", "ingest: exit code 3")
    assert place.poll() == 0
    first, second = (run.name for run in place.fake.runs)
    assert second == f"{first[:-2]}-2"
    assert f"batch 1: run {first} failed (ingest: exit code 3); trying again" in place.said
    place.fake.become("FAILED", "ingest: exit code 3")
    for _ in range(2):
        with pytest.raises(ChainFailed, match=r"batch 1: 2 runs have failed, the last one \(http://kfp/id-2\) failed"):
            place.poll()
    assert len(place.fake.runs) == 2
    place.poll(attempts=3)
    assert [run.name[-2:] for run in place.fake.runs] == ["-1", "-2", "-3"]


def test_a_run_that_was_deleted_counts_as_failed(place: Place) -> None:
    place.feed("a.jsonl", ROW)
    place.poll()
    place.fake.runs.clear()
    place.poll()
    assert "failed (somebody deleted it); trying again" in place.said[-2]
    assert len(place.fake.runs) == 1


def test_a_cancelled_run_ends_the_batch_without_a_model(place: Place) -> None:
    place.feed("a.jsonl", ROW)
    place.poll()
    place.fake.become("CANCELED")
    assert place.poll() == 1
    assert place.store.result(1)["gate"] == "canceled"  # type: ignore[index]
    place.feed("b.jsonl", OTHER)
    place.poll()
    assert len(json.loads(storage.read_bytes(place.fake.given[1]["feedback"]))["files"]) == 2


def test_a_run_that_failed_after_it_registered_a_model_is_done(place: Place) -> None:
    place.feed("a.jsonl", ROW)
    place.poll()
    place.fake.become("FAILED", "record: cannot push")
    place.fake.leave("failed")
    assert place.poll() == 1
    assert "registered its model, and then failed (record: cannot push)" in place.said[-3]
    assert "batch 1: done, model version 3, gate failed" in place.said


@pytest.mark.parametrize(
    ("where", "moment"),
    [
        (Store, "add_version"),
        (Store, "claim"),
        (Store, "point"),
        (Store, "take_turn"),
        (FakePipelines, "start_run"),
        (Store, "mark_started"),
        (Store, "finish"),
    ],
)
def test_a_poller_that_dies_between_two_writes_loses_and_doubles_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: type, moment: str
) -> None:
    class Died(BaseException):
        pass

    place.feed("a.jsonl", ROW)
    real = getattr(where, moment)
    for number, before in enumerate((True, False)):
        elsewhere = tmp_path / str(number)
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)  # a pod keeps nothing

        def die(*arguments: Any, before: bool = before) -> Any:
            if not before:
                real(*arguments)
            raise Died

        with monkeypatch.context() as patch:
            patch.setattr(where, moment, die)
            for _ in range(2):
                with pytest.raises(Died):
                    while True:
                        place.poll()
                        place.fake.become("SUCCEEDED")
                        place.fake.leave("passed")
                if not before:
                    break
    for _ in range(2):
        place.poll()
        place.fake.become("SUCCEEDED")
        place.fake.leave("passed")
    assert len(place.fake.runs) == 1
    assert [place.store.result(claim.number) is not None for claim in place.store.claims()] == [True]


def test_who_finds_a_turn_taken_waits_for_the_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.feed("a.jsonl", ROW)
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_take_turn", lambda *arguments: None)
        place.poll()
    claim = place.store.claims()[0]
    place.store.take_turn(1, 1, 1, "another poller")
    patience = iter(range(1000))

    def meanwhile(seconds: float) -> None:
        if next(patience) == 2:
            name = run_name(place.store.root, claim, 1)
            place.store.mark_started(1, cluster.Started(1, name, "id-elsewhere"))

    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 60.0)
    monkeypatch.setattr(cluster.time, "sleep", meanwhile)
    place.poll()
    assert place.fake.runs == []
    assert "was started by another poller" in place.said[-1]


def test_a_poller_here_and_those_of_a_cluster_leave_each_others_batches(place: Place) -> None:
    place.feed("a.jsonl", ROW)
    place.poll()
    said: list[str] = []
    assert poll(place.feedback, said.append, LocalChain(lambda: None)) == 0
    assert "claimed by a poller elsewhere" in said[0]
    assert place.store.claims() == [Claim(1, place.store.claims()[0].version, "pipelines")]


def test_feedback_that_was_read_in_another_pod_is_not_read_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.feed("a.jsonl", ROW)
    place.poll()
    place.fake.become("SUCCEEDED")
    (tmp_path / "pod").mkdir()
    monkeypatch.chdir(tmp_path / "pod")
    real, read = storage.read_bytes, list[str]()
    monkeypatch.setattr(storage, "read_bytes", lambda uri: (read.append(uri), real(uri))[1])
    place.poll()
    assert place.said[-1].endswith("nothing new")
    assert f"{place.feedback}/a.jsonl" not in read
