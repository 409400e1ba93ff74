"""Pollers of a cluster as processes, each in an empty folder, with a real S3 server and a fake of Kubeflow's API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.core import storage
from components.core.fingerprint import json_document
from components.flywheel.cluster import PATIENCE_SECONDS
from components.flywheel.poller import open_store
from components.flywheel.versions import Claim
from tests.conftest import PROJECT, Embedmill
from tests.fixtures.fake_kfp import TOKEN, FakeKfp, fake_kfp
from tests.fixtures.seaweed import S3Bucket

ROW = {"query": "read csv", "clicked": "csv.reader", "skipped": ["csv.writer"]}
# The command, which stops where it is told to: at its start, before the request that creates a run, after its answer.
# How long it waits for others goes by the clock of the test, and that it waits can be seen.
POD = """
import os, pathlib, sys, time, types
from components import cli
from components.core import kubeflow
from components.flywheel import cluster

folder, create = pathlib.Path(sys.argv[1]), kubeflow.Pipelines.create_run

def read_clock():
    return float((folder / "clock").read_text())

def wait(seconds):
    for name in (f"waiting.{os.getpid()}", f"waiting.{os.getpid()}.{read_clock():.0f}"):
        (folder / name).touch()
    time.sleep(0.02)

def reach(moment):
    (folder / f"{moment}.{os.getpid()}").touch()
    while (folder / f"stop-{moment}").exists():
        time.sleep(0.01)

cluster.time = types.SimpleNamespace(monotonic=read_clock, sleep=wait)

def watched(*arguments):
    reach("before")
    run = create(*arguments)
    reach("after")
    return run

kubeflow.Pipelines.create_run = watched
reach("ready")
sys.exit(cli._run(["flywheel", *sys.argv[2:]], debug=False))
"""
IMAGE = "registry.example/embedmill-data@sha256:0123"
FULL = PROJECT / "pipelines" / "full.yaml"
WAIT_SECONDS = 120.0
# By when, in seconds, others take it that a poller which has set out creates no run any more.
PATIENCE = int(PATIENCE_SECONDS) + 1


@dataclass
class Cluster:
    """Feedback in a bucket, Kubeflow's API, and pods that poll."""

    path: Path
    feedback: str
    host: str
    kfp: FakeKfp
    pods: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def arguments(self) -> list[str]:
        place = ["--params", str(self.path / "params.yaml"), "--submit", str(FULL)]
        account = ["--service-account", "embedmill-train"]
        return [*place, "--host", self.host, *account, "--param", "recipe=zh", "--image", IMAGE]

    def feed(self, name: str, *rows: dict[str, Any]) -> None:
        storage.write_bytes(f"{self.feedback}/{name}", b"".join(json.dumps(row).encode() + b"\n" for row in rows))

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start a pod: a process in an empty folder."""
        folder = self.path / f"pod-{len(self.pods)}"
        folder.mkdir()
        env = {**os.environ, "PYTHONPATH": str(PROJECT), "EMBEDMILL_KFP_TOKEN": TOKEN, "HOME": str(folder)}
        command = [sys.executable, "-c", POD, str(self.path), "poll", *self.arguments, *more]
        pod = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.pods.append(pod)
        return pod

    def poll(self) -> str:
        """Poll once, to the end; returns what was said."""
        pod = self.start()
        _, said = pod.communicate(timeout=WAIT_SECONDS)
        assert pod.returncode == 0, said
        return said

    def set_clock(self, seconds: int) -> None:
        """Let it be so late, by the pods' clock."""
        (self.path / "clock.new").write_text(str(seconds))
        (self.path / "clock.new").replace(self.path / "clock")

    def reached(self, moment: str, pod: subprocess.Popen[str]) -> bool:
        """Whether a pod is at the moment or behind it."""
        return (self.path / f"{moment}.{pod.pid}").exists()

    def wait_for(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def cluster(s3: S3Bucket, tmp_path: Path) -> Iterator[Cluster]:
    feedback = f"{s3.uri}/feedback"
    (tmp_path / "params.yaml").write_text(f"flywheel: {{feedback: '{feedback}'}}\n")
    with fake_kfp(FakeKfp(token=TOKEN, held=True, accounts=("embedmill-train",))) as (kfp, host):
        cluster = Cluster(tmp_path, feedback, host, kfp)
        cluster.set_clock(0)
        yield cluster
        for pod in cluster.pods:
            if pod.poll() is None:
                pod.send_signal(signal.SIGKILL)
            pod.communicate()


@pytest.mark.parametrize("claimed", [False, True])
def test_four_pollers_at_once_start_one_run(cluster: Cluster, claimed: bool) -> None:
    cluster.feed("a.jsonl", ROW)
    (cluster.path / "stop-before").touch()
    if claimed:  # by a poller that died at once: all four may start the run
        dies = cluster.start()
        cluster.wait_for(lambda: cluster.reached("before", dies))
        dies.kill()
        dies.wait()
    (cluster.path / "stop-ready").touch()
    pods = [cluster.start() for _ in range(4)]
    cluster.wait_for(lambda: all(cluster.reached("ready", pod) for pod in pods))
    (cluster.path / "stop-ready").unlink()
    if claimed:
        cluster.wait_for(lambda: all(cluster.reached("waiting", pod) for pod in pods))
        cluster.set_clock(PATIENCE)
    time_now = PATIENCE if claimed else 0

    def out_of_the_way(pod: subprocess.Popen[str]) -> bool:
        return pod.poll() is not None or (cluster.path / f"waiting.{pod.pid}.{time_now}").exists()

    # one is about to create the run, and the others have seen so
    cluster.wait_for(lambda: any(cluster.reached("before", pod) for pod in pods))
    cluster.wait_for(lambda: all(cluster.reached("before", pod) or out_of_the_way(pod) for pod in pods))
    (cluster.path / "stop-before").unlink()
    said = [pod.communicate(timeout=WAIT_SECONDS)[1] for pod in pods]
    assert [pod.returncode for pod in pods] == [0] * 4, said
    assert len(cluster.kfp.runs) == 1
    (run,) = cluster.kfp.runs.values()
    assert run["service_account"] == "embedmill-train"
    store = open_store(cluster.feedback)
    assert store.claims() == [Claim(1, store.claims()[0].version, "pipelines")]
    started = store.last_started(1)
    assert started is not None
    assert (started.name, started.run_id) == (run["display_name"], run["run_id"])
    assert any(f"run {started.name} started" in words for words in said)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_poller_killed_around_the_request_leaves_a_run_to_find_or_to_create(cluster: Cluster, moment: str) -> None:
    cluster.feed("a.jsonl", ROW)
    (cluster.path / f"stop-{moment}").touch()
    killed = cluster.start()
    cluster.wait_for(lambda: cluster.reached(moment, killed))
    killed.kill()
    killed.wait()
    (cluster.path / f"stop-{moment}").unlink()
    assert len(cluster.kfp.runs) == (1 if moment == "after" else 0)
    cluster.set_clock(PATIENCE)
    next_one = cluster.start()
    if moment == "before":
        cluster.wait_for(lambda: cluster.reached("waiting", next_one))
        cluster.set_clock(2 * PATIENCE)
    _, said = next_one.communicate(timeout=WAIT_SECONDS)
    assert (next_one.returncode, "batch 1: run flywheel-00000001-" in said) == (0, True), said
    assert len(cluster.kfp.runs) == 1
    assert "is pending" in cluster.poll() or "is running" in cluster.poll()


def test_a_poller_that_was_paused_before_the_request_sends_it_no_more(cluster: Cluster) -> None:
    cluster.feed("a.jsonl", ROW)
    (cluster.path / "stop-before").touch()
    paused = cluster.start()
    cluster.wait_for(lambda: cluster.reached("before", paused))
    paused.send_signal(signal.SIGSTOP)
    (cluster.path / "stop-before").unlink()
    other = cluster.start()
    cluster.wait_for(lambda: cluster.reached("waiting", other))
    cluster.set_clock(PATIENCE)
    other.communicate(timeout=WAIT_SECONDS)
    assert (other.returncode, len(cluster.kfp.runs)) == (0, 1)
    paused.send_signal(signal.SIGCONT)
    _, said = paused.communicate(timeout=WAIT_SECONDS)
    assert (paused.returncode, "batch 1: too late to create run flywheel-00000001-" in said) == (3, True), said
    assert len(cluster.kfp.runs) == 1


def test_an_answer_that_is_lost_starts_no_second_run(cluster: Cluster) -> None:
    cluster.feed("a.jsonl", ROW)
    cluster.kfp.fault("lost", matches=lambda line: line == "POST /apis/v2beta1/runs")
    cluster.kfp.fault("500", 2, matches=lambda line: line.startswith("GET /apis/v2beta1/runs"))
    cluster.poll()
    assert len(cluster.kfp.runs) == 1
    given = cluster.kfp.parameters
    assert (given["recipe"], given["data_version"], given["image"]) == ("zh", "", IMAGE)
    assert IMAGE in {executor["container"]["image"] for executor in cluster.kfp.executors.values()}
    assert json.loads(storage.read_bytes(given["feedback"]))["files"][0]["rows"] == 1


def test_what_the_run_registered_is_what_status_tells(cluster: Cluster, embedmill: Embedmill) -> None:
    cluster.feed("a.jsonl", ROW)
    cluster.poll()
    storage.write_bytes(cluster.kfp.parameters["result_uri"], json_document({"version": 3, "gate": "passed"}))
    cluster.kfp.held, cluster.kfp.polls = False, 1
    cluster.wait_for(lambda: "done, model version 3, gate passed" in cluster.poll())
    assert "nothing new" in cluster.poll()
    status = embedmill("flywheel", "status", "--params", cluster.path / "params.yaml").stdout
    assert "done: model version 3, gate passed" in status


def test_a_run_that_fails_is_tried_again_and_then_left_with_the_reason(cluster: Cluster) -> None:
    cluster.feed("a.jsonl", ROW)
    cluster.kfp.held, cluster.kfp.polls, cluster.kfp.fails = False, 1, "sources"
    code = 0
    while not code:
        pod = cluster.start("--attempts", "2")
        _, said = pod.communicate(timeout=WAIT_SECONDS)
        code = pod.returncode
        assert len(cluster.pods) < 20
    assert code == 1
    assert "batch 1: 2 runs have failed" in said
    assert "sources: Error (exit code 3): main" in said
    assert [run["display_name"][-2:] for run in cluster.kfp.runs.values()] == ["-1", "-2"]


def test_a_run_has_the_labels_that_its_costs_are_grouped_by(cluster: Cluster) -> None:
    cluster.feed("a.jsonl", ROW)
    _, said = cluster.start("--label", "team=search,cost-center=42").communicate(timeout=WAIT_SECONDS)
    assert len(cluster.kfp.runs) == 1, said
    assert cluster.kfp.parameters["labels"] == "cost-center=42,team=search"
    (run,) = cluster.kfp.runs.values()
    configs = run["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {each["podMetadata"]["labels"]["team"] for each in configs.values()} == {"search"}


def test_what_is_wrong_is_said_before_anything_is_claimed(cluster: Cluster, embedmill: Embedmill) -> None:
    cluster.feed("a.jsonl", ROW)
    here = ["--set", "flywheel.feedback=feedback/"]
    for arguments, message in (
        ([*cluster.arguments, *here], "flywheel.feedback: feedback/: a run in the cluster cannot read it"),
        ([*cluster.arguments, "--param", "reciep=zh"], "full.yaml: no parameter reciep; did you mean recipe?"),
        ([*cluster.arguments, "--param", "nodes=two"], "--param nodes=two: expected a whole number"),
        ([*cluster.arguments, "--param", "feedback=x"], "--param feedback: the flywheel fills that in"),
        ([*cluster.arguments, "--param", "labels=a=b"], "--param labels: use --label"),
        ([*cluster.arguments, "--label", "team"], "label team: expected KEY=VALUE"),
        ([*cluster.arguments, "--submit", "gone.yaml"], "gone.yaml: no such file"),
        ([*cluster.arguments, "--submit", cluster.path / "params.yaml"], "not a compiled pipeline"),
    ):
        result = embedmill("flywheel", "poll", *arguments, env={"EMBEDMILL_KFP_TOKEN": TOKEN})
        assert (result.returncode, message in result.stderr) == (2, True), result.stderr
    result = embedmill("flywheel", "poll", *cluster.arguments, env={"EMBEDMILL_KFP_TOKEN": "wrong"})
    assert (result.returncode, "not logged in" in result.stderr) == (3, True), result.stderr
    assert open_store(cluster.feedback).claims() == []
