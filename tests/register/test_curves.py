"""Curves of a training in a real MLflow server, and what register makes of their run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from components.core import tracking
from components.core.errors import Interrupted
from components.core.fingerprint import digest_file
from components.training import curves
from components.training.curves import Curves
from tests.register.tiny_run import register, write_run


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_SEND_SECONDS", 0.05)
    monkeypatch.setattr(curves, "_RETRY_SECONDS", 0.05)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def runs(step: str = "finetune") -> list[Any]:
    client = tracking.connect()
    return tracking.find_runs(client, tracking.experiment_id(client), {tracking.STEP: step})


def points(run: Any, key: str) -> list[tuple[int, float]]:
    found = tracking.connect().get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in found]


def wait_for(done: Any) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def draw(live: Curves, steps: range) -> None:
    for step in steps:
        live.add(step, {"loss/retri_contrast": 4.5 - step, "lr": 0.1, "dev": float("nan")})


def test_a_training_is_drawn_while_it_runs_and_goes_on_in_its_run_after_it_was_stopped(
    project: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    said: list[str] = []
    params = {"epochs": 2, "mining": {"negatives": 3}}
    with pytest.raises(Interrupted), Curves("finetune", "fingerprint", params, said.append) as live:
        draw(live, range(3))
        wait_for(lambda: runs() and len(points(runs()[0], "lr")) == 3)  # while it runs
        assert runs()[0].info.status == "RUNNING"
        raise Interrupted("stopped")
    (run,) = runs()
    assert (run.info.status, run.data.params) == ("KILLED", {"epochs": "2", "mining.negatives": "3"})
    assert tracking.LOSSES not in run.data.tags

    with Curves("finetune", "fingerprint", params, said.append, done=1) as live:
        draw(live, range(1, 5))  # from the checkpoint before
        live.finish("digest")
    (again,) = runs()
    assert again.info.run_id == run.info.run_id
    assert (again.info.status, again.data.tags[tracking.LOSSES]) == ("FINISHED", "digest")
    assert points(again, "loss/retri_contrast") == [(step, 4.5 - step) for step in range(5)]
    assert again.data.metrics["system/process_memory_megabytes"] > 10
    assert "system/cpu_utilization_percentage" in again.data.metrics
    assert "dev" not in again.data.metrics

    with Curves("finetune", "fingerprint", params, said.append, done=4) as live:
        draw(live, range(4, 5))  # killed before the outputs were there
        live.finish("digest")
    (same,) = runs()
    assert points(same, "loss/retri_contrast") == [(step, 4.5 - step) for step in range(5)]

    with Curves("finetune", "fingerprint", params, said.append) as live:
        draw(live, range(2))  # trained once more, from the start
        live.finish("digest")
    assert len(runs()) == 2
    with Curves("finetune", "unseen so far", params, said.append, done=7) as live:
        draw(live, range(7, 9))
        live.finish("digest")
    assert len(runs()) == 3
    assert tracking.LOSSES not in runs()[-1].data.tags  # the first steps are missing
    assert said == []


def test_register_makes_the_live_run_the_child_of_the_pipelines_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    monkeypatch.setenv("EMBEDMILL_RUN_ID", "workflow-7")
    write_run(project)
    with Curves("pretrain", "fingerprint", {"epochs": 2, "dims": [8, 4]}, pytest.fail) as live:
        live.add(1, {"loss/retri_contrast": 4.5, "lr": 0.1, "tokens_per_second": 1e6})
        live.add(2, {"loss/retri_contrast": 3.5, "lr": 0.05, "tokens_per_second": 2e6})
        live.finish(digest_file(project / "reports/pretrain/loss.csv"))
    (drawn,) = runs("pretrain")
    version = register()
    (child,) = runs("pretrain")
    assert child.info.run_id == drawn.info.run_id
    assert child.data.tags[tracking.PARENT] == version["run_id"]
    assert points(child, "loss/retri_contrast") == [(1, 4.5), (2, 3.5)]
    assert points(child, "tokens_per_second") == [(1, 1e6), (2, 2e6)]
    assert child.data.metrics["pairs/kept"] == 5
    assert child.data.params == {"epochs": "2", "dims": "[8,4]"}
    assert len(runs("finetune")) == 1  # which nobody drew: made of the log
    assert child.data.tags["kfp.run_id"] == "workflow-7"
    (pipeline,) = runs("pipeline")
    assert (pipeline.info.run_id, pipeline.data.tags["kfp.run_id"]) == (version["run_id"], "workflow-7")
    monkeypatch.setenv("EMBEDMILL_RUN_ID", "workflow-8")
    assert register() == version
    assert len(runs("pretrain")) == 1
    assert runs("pipeline")[0].data.tags["kfp.run_id"] == "workflow-8", "the one that found it last"


def test_another_model_of_the_same_training_gets_a_child_of_its_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    write_run(project)
    with Curves("pretrain", "fingerprint", {}, pytest.fail) as live:
        live.add(1, {"loss/retri_contrast": 4.5})
        live.finish(digest_file(project / "reports/pretrain/loss.csv"))
    register()
    write_run(project, seed=1)
    register()
    parents = {run.data.tags[tracking.PARENT] for run in runs("pretrain")}
    assert len(parents) == 2


def test_a_server_that_is_not_there_is_said_once_and_stops_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    said: list[str] = []
    with Curves("finetune", "fingerprint", {}, said.append) as live:
        draw(live, range(100))
        wait_for(lambda: said)
        draw(live, range(100, 200))
        live.finish("digest")
    assert said == ["no curves for now (MLflow at http://127.0.0.1:9: cannot be reached); training goes on"]


def test_a_server_that_hangs_holds_up_neither_a_step_nor_the_end(
    project: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    monkeypatch.setattr(curves, "_END_SECONDS", 0.2)
    said: list[str] = []
    (server,) = children(os.getpid())
    with Curves("finetune", "fingerprint", {}, said.append) as live:
        draw(live, range(1))
        wait_for(lambda: runs() and points(runs()[0], "lr"))
        os.killpg(server, signal.SIGSTOP)
        try:
            began = time.process_time()
            draw(live, range(1, 1000))
            assert time.process_time() - began < 1.0
            live.finish("digest")
            live.__exit__(None, None, None)
        finally:
            os.killpg(server, signal.SIGCONT)
    assert said[0] == f"MLflow at {mlflow_server} is slow: the last points of the curves are not there"


def children(process: int) -> list[int]:
    """Process groups that this process has started and that have one of their own."""
    tasks = Path(f"/proc/{process}/task").iterdir()
    started = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    return [child for child in started if os.getpgid(child) == child]


def test_without_a_server_named_mlflow_is_not_even_imported(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "connect", pytest.fail)
    with Curves("finetune", "fingerprint", {}, pytest.fail) as live:
        draw(live, range(3))
        live.finish("digest")
