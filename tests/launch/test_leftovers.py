"""What a run has left is deleted, and nothing of another run."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from components.finish.command import finish
from components.launch import leftovers, rayjob, trainjob
from components.launch.job import RUN, Job, job_name
from tests.fixtures.fake_kubernetes import ACCOUNT, FakeKubernetes
from tests.launch.process import PACE


@pytest.fixture(autouse=True)
def _reached(cluster: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))


def job(step: str, run: str) -> Job:
    return Job(job_name(step, run * 12), step, ("embedmill", step), "train:1", labels={RUN: run})


def test_the_jobs_of_a_run_go_and_those_of_others_stay(cluster: FakeKubernetes) -> None:
    for run in ("a", "b"):
        cluster.create("trainjobs", trainjob.manifest(job("finetune", run)), "Strict")
        cluster.create("rayjobs", rayjob.manifest(job("filter", run), 2), "Strict")
    cluster.trouble("status", times=2, status=503)
    said: list[str] = []
    leftovers.clear("a", said.append, PACE)
    cluster.until(lambda: len(cluster.objects["trainjobs"]) == len(cluster.objects["rayjobs"]) == 1)
    assert list(cluster.objects["trainjobs"]) == [job_name("finetune", "b" * 12)]
    assert said[-2:] == [
        f"TrainJob {job_name('finetune', 'a' * 12)}: left by the run a; deleting it",
        f"RayJob {job_name('filter', 'a' * 12)}: left by the run a; deleting it",
    ]


def test_the_end_of_a_run_deletes_what_its_steps_have_left(
    cluster: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.create("trainjobs", trainjob.manifest(job("finetune", "a")), "Strict")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    status = '{"state": "FAILED", "pipelineJobResourceName": "x", "pipelineTaskName": "y"}'
    ended = CliRunner().invoke(finish, ["--status", status, "--run", "a", "--name", "run"], catch_exceptions=False)
    assert "left by the run a; deleting it" in ended.stderr
    cluster.until(lambda: not cluster.objects["trainjobs"])


def test_what_cannot_be_deleted_is_named(cluster: FakeKubernetes) -> None:
    cluster.create("trainjobs", trainjob.manifest(job("finetune", "a")), "Strict")
    cluster.role["trainjobs"].remove("delete")
    cluster.installed.remove("rayjobs")
    said: list[str] = []
    leftovers.clear("a", said.append, PACE)
    assert said[-1].startswith("there may be jobs left (")
    assert f'User "{ACCOUNT}" cannot delete' in said[-1]
    assert said[-1].endswith("kubectl delete trainjobs -l embedmill.dev/run=a")
