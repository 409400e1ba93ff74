"""The step against real MLflow stores: what it records, that it does so once, and that it survives being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.core import tracking
from components.core.errors import GateRefused
from components.core.fingerprint import digest_file
from tests.register.tiny_run import DIMS, register, write_measured, write_run

PROJECT = Path(__file__).resolve().parents[2]


def state() -> dict[str, Any]:
    """What the store holds: versions with their tags, and runs that are not deleted."""
    client = tracking.connect()
    versions = client.search_model_versions(f"name = '{tracking.MODEL}'")
    runs = client.search_runs([tracking.experiment_id(client)])
    champion = tracking.champion(client)
    return {
        "versions": {int(version.version): version.tags for version in versions},
        "runs": sorted((run.data.tags["step"], run.info.status) for run in runs),
        "champion": int(champion.version) if champion else None,
    }


RUN_TREE = [
    (step, "FINISHED")
    for step in ("evaluate", "export", "filter", "finetune", "ingest", "pipeline", "pretrain", "score")
]


def test_a_run_is_recorded_once_with_its_model_and_becomes_champion(project: Path) -> None:
    write_run(project)
    first = register()
    again = register()
    assert again == first
    assert (first["version"], first["gate"], first["champion"], first["champion_version"]) == (1, "passed", True, 1)
    weights = project / "models/export/0_StaticEmbedding/model.safetensors"
    assert first["weights_sha256"] == digest_file(weights)
    found = state()
    assert found["runs"] == RUN_TREE
    assert found["champion"] == 1
    tags = found["versions"][1]
    assert (tags["gate"], tags["score"], tags["suite"]) == ("passed", "50.0", "suite-1")
    assert tags["weights.sha256"] == first["weights_sha256"]

    client = tracking.connect()
    parent = client.get_run(first["run_id"])
    assert parent.data.metrics[f"pydoc/{DIMS}/ndcg_at_10"] == 50.0
    assert parent.data.metrics["pydoc/4/ndcg_at_10"] == 48.0
    assert parent.data.params == {"seed": "7"}
    assert [entry.dataset.name for entry in parent.inputs.dataset_inputs] == ["score", "heldout"]
    children = {run.info.run_name: run for run in client.search_runs([parent.info.experiment_id])}
    assert children["pretrain"].data.tags["mlflow.parentRunId"] == first["run_id"]
    assert children["pretrain"].data.params == {"epochs": "2", "dims": "[8,4]"}
    assert children["pretrain"].data.metrics["pairs/kept"] == 5
    losses = client.get_metric_history(children["pretrain"].info.run_id, "loss/retri_contrast")
    assert [(point.step, point.value) for point in losses] == [(1, 4.5), (2, 3.5)]
    assert children["filter"].data.metrics["dropped/too_short"] == 1
    assert children["evaluate"].data.metrics["bm25/pydoc/ndcg_at_10"] == 44.0


def test_the_logged_model_is_the_exported_one_and_linked_to_what_was_measured(project: Path) -> None:
    import mlflow

    write_run(project)
    version = register()
    client = tracking.connect()
    champion = tracking.champion(client)
    folder = tracking.fetch_model(client, champion)
    exported = project / "models/export"
    files = [path.relative_to(exported) for path in exported.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert all((folder / file).read_bytes() == (exported / file).read_bytes() for file in files)
    logged = client.get_logged_model(tracking.logged_model_id(champion))
    measured = {metric.key: metric for metric in logged.metrics}
    assert measured["pydoc/4/ndcg_at_10"].dataset_name == "heldout"
    assert logged.source_run_id == version["run_id"]
    model = mlflow.models.Model.load(f"models:/{tracking.MODEL}@{tracking.CHAMPION}")
    assert model.signature.inputs.input_types() == [mlflow.types.DataType.string]
    assert model.signature.outputs.inputs[0].shape == (-1, DIMS)
    assert json.loads((folder.parent / "input_example.json").read_text()) == ["read a csv file into a table"]
    requirements = (folder.parent / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("sentence-transformers==") for line in requirements)
    assert not any("+" in line for line in requirements)


def test_the_files_of_a_moved_project_are_found(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(project)
    register()
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    project.rename(moved)
    monkeypatch.chdir(moved)
    client = tracking.connect()
    assert (tracking.fetch_model(client, tracking.champion(client)) / "modules.json").is_file()


def test_a_refused_model_is_kept_and_the_champion_stays(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(project)
    register()
    write_run(project, seed=1, score=40.0)
    refused = register()
    assert (refused["version"], refused["gate"], refused["champion"]) == (2, "failed", False)
    assert refused["champion_version"] == 1
    assert "refused: pydoc ndcg_at_10 40.00, bm25 44.00" in capsys.readouterr().err
    found = state()
    assert found["champion"] == 1
    assert found["versions"][2]["gate"] == "failed"
    with pytest.raises(GateRefused, match=r"version 2: gate failed: pydoc ndcg_at_10 40\.00, bm25 44\.00"):
        register(strict=True)
    assert len(state()["versions"]) == 2


def test_other_rules_judge_the_same_version_again(project: Path) -> None:
    write_run(project)
    assert register(rules=[{"task": "pydoc", "dim": 4, "at_least": 49.0}])["gate"] == "failed"
    assert state()["champion"] is None
    lenient = register(rules=[{"task": "pydoc", "dim": 4, "at_least": 48.0}])
    assert (lenient["version"], lenient["gate"], lenient["champion"]) == (1, "passed", True)


def test_the_champion_is_the_best_on_the_current_suite_only(project: Path) -> None:
    write_run(project, score=60.0)
    register()
    write_run(project, seed=1, score=59.5)  # within the tolerance, so it passes, but it is not the best
    second = register()
    assert (second["gate"], second["champion_version"]) == ("passed", 1)
    write_run(project, seed=1, score=50.0, suite="suite-2")  # another measure: the numbers cannot be compared
    assert register()["champion_version"] == 3
    write_measured(project / "reports/evaluate", score=59.5)
    back = register()
    assert (back["version"], back["champion_version"]) == (2, 1)


def test_a_revoked_version_stays_revoked_and_loses_the_alias(project: Path) -> None:
    write_run(project, score=50.0)
    register()
    write_run(project, seed=1, score=55.0)
    register()
    tracking.connect().set_model_version_tag(tracking.MODEL, "2", "gate", "revoked")
    version = register(rules=[{"at_least": 1.0}])
    assert (version["version"], version["gate"], version["champion_version"]) == (2, "revoked", 1)


class Cut(BaseException):
    """Stands for the end of the process: nothing in the step may handle it."""


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("log_batch", 3),
        ("create_logged_model", 1),
        ("create_model_version", 1),
        ("set_registered_model_tag", 1),
    ],
)
def test_an_interrupted_registration_is_finished_without_doubles(
    project: Path, monkeypatch: pytest.MonkeyPatch, method: str, call: int
) -> None:
    from mlflow import MlflowClient

    write_run(project)
    real, calls = getattr(MlflowClient, method), []

    def cut(*arguments: Any, **options: Any) -> Any:
        result = real(*arguments, **options)
        calls.append(method)
        if len(calls) == call:
            raise Cut
        return result

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, cut)
        with pytest.raises(Cut):
            register()
    version = register()
    found = state()
    assert (version["version"], list(found["versions"]), found["champion"]) == (1, [1], 1)
    assert found["runs"] == RUN_TREE


def test_a_registration_killed_while_files_are_copied_is_finished(project: Path) -> None:
    write_run(project)
    script = (
        "import os, signal\n"
        "from mlflow import MlflowClient\n"
        "from tests.register.tiny_run import register\n"
        "MlflowClient.finalize_logged_model = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        "register()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(PROJECT)}
    killed = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    version = register()
    found = state()
    assert (version["version"], list(found["versions"]), found["runs"]) == (1, [1], RUN_TREE)
    assert len(list((project / "mlartifacts/models").iterdir())) == 1  # the unfinished copy was completed
    assert json.loads((project / "reports/register/version.json").read_text()) == version
