"""The launcher of a RayJob, as a process, against a strict fake of the Kubernetes API; and what its head runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from components.launch.entrypoint import ARGUMENTS
from tests.fixtures.fake_kubernetes import FakeKubernetes
from tests.launch.process import PROJECT, Launcher

Launch = Callable[..., Launcher]
NAME = "embedmill-filter-3f2a91c04d7e"
STEP = {
    "name": NAME,
    "step": "filter",
    "command": ("embedmill", "filter", "--section", "filter", '{"a": "$HOME `x` $$"}'),
}
FAILED = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\nthe rest"


def end(cluster: FakeKubernetes, pod: str, code: int) -> None:
    """The driver ends and the operator writes down how, as Ray tells it; the submitter has only shown its lines."""
    cluster.end(pod, 0)
    if code:
        message = FAILED.format(code)
        cluster.ray(NAME, jobStatus="FAILED", jobDeploymentStatus="Failed", reason="AppFailed", message=message)
    else:
        cluster.ray(NAME, jobStatus="SUCCEEDED", jobDeploymentStatus="Complete")


def test_a_step_runs_on_a_ray_cluster_of_its_own(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch("ray", **STEP)
    job = cluster.job("rayjobs")
    assert job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] == 2
    cluster.ray(NAME, jobDeploymentStatus="Initializing")
    pod = cluster.start_submitter(NAME)
    assert len(cluster.objects["pods"]) == 4
    cluster.ray(NAME, jobDeploymentStatus="Running", jobStatus="RUNNING")
    cluster.write(pod, "12 of 64 shards")
    launcher.wait_for("12 of 64 shards")
    end(cluster, pod, 0)
    assert launcher.end() == 0
    assert launcher.marked("driver") == ["12 of 64 shards"]
    cluster.until(lambda: not cluster.objects["rayjobs"] and not cluster.objects["pods"])


@pytest.mark.parametrize("code", [3, 1])
def test_the_steps_own_exit_code_comes_back(cluster: FakeKubernetes, launch: Launch, code: int) -> None:
    launcher = launch("ray", **STEP)
    attempts = 1 if code == 3 else 2
    for attempt in range(1, attempts + 1):
        cluster.until(lambda: sum(line.startswith("POST") for line in cluster.seen) == attempt)  # noqa: B023
        cluster.job("rayjobs")
        pod = cluster.start_submitter(NAME)
        cluster.write(pod, "embedmill: shard 7: row 12: no text")
        end(cluster, pod, code)
    assert launcher.end() == code
    assert launcher.lines[-3] == f"RayJob {NAME}: the last 1 lines of the driver (pod {pod}):"
    assert launcher.lines[-2] == "[driver] embedmill: shard 7: row 12: no text"
    said = f"embedmill: RayJob {NAME}: failed (AppFailed: {FAILED.format(code).splitlines()[0]}): "
    assert launcher.lines[-1] == f"{said}its command ended with exit code {code}"


def test_a_signal_deletes_the_cluster(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch("ray", **STEP)
    cluster.job("rayjobs")
    cluster.start_submitter(NAME)
    launcher.wait_for("created")
    launcher.process.terminate()
    assert launcher.end() == 5
    assert not cluster.objects["rayjobs"] and not cluster.objects["pods"]


def test_a_queue_and_a_cluster_without_ray(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch("ray", **STEP, queue="data", priority_class="low")
    labels = cluster.job("rayjobs")["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "data"
    assert labels["kueue.x-k8s.io/priority-class"] == "low"
    cluster.ray(NAME, jobDeploymentStatus="Suspended")
    launcher.wait_for(f"RayJob {NAME}: waiting in the queue data")
    launcher.process.terminate()
    assert launcher.end() == 5
    cluster.installed.remove("rayjobs")
    refused = launch("ray", **STEP)
    assert refused.end() == 3
    assert refused.lines[-1].startswith("embedmill: KubeRay is not installed in this cluster")


def test_the_head_runs_the_very_words_of_the_command(cluster: FakeKubernetes, launch: Launch) -> None:
    words = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "a b", '"$HOME"', "`x`", "$$(Y)", "é\\", "*"]
    launch("ray", **{**STEP, "command": words})
    spec = cluster.job("rayjobs")["spec"]
    (head,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    env = {each["name"]: each["value"] for each in head["env"]}
    # what Kubernetes makes of a value: a doubled dollar is one, and no variable is named here
    value = env[ARGUMENTS].replace("$$", "$")
    # the operator's shell command and Ray's quoting leave the entrypoint as it is
    shown = subprocess.run(
        ["bash", "-c", spec["entrypoint"].replace("python", sys.executable)],
        env={**os.environ, "PYTHONPATH": str(PROJECT), ARGUMENTS: value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == repr(words[3:])
    assert json.loads(value) == words
