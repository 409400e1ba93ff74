"""From training to the report with every input and output in S3: the bytes are those of a run in local folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components import chain
from components.core import storage, tracking
from components.core.errors import EmbedmillError, InputError
from components.core.step import Port
from tests.fixtures.seaweed import S3Bucket
from tests.fixtures.small_corpus import SMALL, records, run_step, write_dataset

BATCHES = {"retrieval": {"batch_size": 16}, "similarity": {"batch_size": 16}, "classes": {"batch_size": 16}}
BERT = {"type": "transformer", "layers": 1, "hidden": 16, "heads": 2, "intermediate": 16, "max_positions": 32}
SUITE = [
    {"name": "pairs", "type": "heldout", "source": "pairs"},
    {"name": "graded", "type": "heldout", "source": "graded"},
]
SECTIONS: dict[str, Any] = {
    "pretrain": {**SMALL, "contrast": {"epochs": 1, "batch_size": 16}},
    "finetune": {**BATCHES, "epochs": 2, "checkpoint": {"steps": 4}, "dev": {"every": 5, "rows": 60}},
    "evaluate": {"suite": SUITE, "dims": [32, 8]},
    "score": {"teachers": {}, "thresholds": {}},
}
STEPS = ("pretrain", "finetune", "export", "evaluate", "register", "report")


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with all that comes before training; the working directory."""
    folder = tmp_path / "local"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("ingest", "filter", "score"):
        write_dataset(f"data/{name}", records())
    write_dataset("data/heldout", [row | {"text": f"please {row['text']}"} for row in records()[:90]])
    Path("data/suite.json").write_text("{}")
    Path("reports/score").mkdir(parents=True)
    Path("reports/score/histogram.csv").write_text("teacher,low,high,rows,threshold\n")
    return folder


def upload(folder: Path, uri: str) -> None:
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        storage.upload(path, storage.join(uri, path.relative_to(folder).as_posix()))


def places(step: str, root: str) -> dict[str, str]:
    declared = chain.step(step)
    ports: list[Port] = [port for port in (*declared.inputs, *declared.outputs) if not port.optional]
    return {port.name: storage.join(root, port.default) for port in ports}


def contents(uri: str) -> dict[str, bytes]:
    return {info.uri.removeprefix(uri): storage.read_bytes(info.uri) for info in storage.list_files(uri)}


@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_training_to_report_in_s3_gives_the_local_bytes(
    s3: S3Bucket, local: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = dict(SECTIONS)
    if kind == "transformer":
        sections["pretrain"] = {
            **sections["pretrain"],
            "model": BERT,
            "matryoshka": {"dims": [16, 8]},
            "max_tokens": 32,
        }
        sections["evaluate"] = {**sections["evaluate"], "dims": [16, 8]}
    root = f"{s3.uri}/run"
    upload(local, root)
    pod = tmp_path / "pod"
    pod.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(pod)
        patch.setenv("EMBEDMILL_RUN_ID", "workflow-7")
        for step in STEPS:
            mirror = {"checkpoints": f"{root}/checkpoints/{step}"} if step in ("pretrain", "finetune") else {}
            run_step(step, sections, **places(step, root), **mirror)
    assert not contents(f"{root}/checkpoints")
    for step in STEPS:
        run_step(step, sections)
    for made in ("models", "reports"):
        assert contents(storage.join(root, made)) == contents(str(local / made))
    assert {path.name for path in pod.iterdir()} <= {".embedmill", tracking.ARTIFACTS}

    client = tracking.connect()
    version = json.loads(Path("reports/register/version.json").read_text())
    assert client.get_run(version["run_id"]).data.tags["kfp.run_id"] == "workflow-7"
    kept = tracking.fetch_model(client, client.get_model_version("embedmill", str(version["version"])))
    assert contents(str(kept)) == contents("models/export")
    (drawn,) = tracking.find_runs(
        client, tracking.experiment_id(client), {"step": "finetune", "kfp.run_id": "workflow-7"}
    )
    assert drawn.data.tags[tracking.PARENT] == version["run_id"]


@pytest.mark.parametrize("step", ["finetune", "export", "evaluate", "register"])
def test_a_model_whose_upload_was_killed_is_no_model(s3: S3Bucket, local: Path, step: str) -> None:
    root = f"{s3.uri}/run"
    upload(local, root)
    run_step("pretrain", SECTIONS, **places("pretrain", root))
    model = f"{root}/models/pretrain"
    storage.remove(f"{model}/modules.json")
    files = {"metrics": f"{root}/none.json", "quality": f"{root}/none.csv"} if step == "register" else {}
    with pytest.raises(EmbedmillError, match=r"modules\.json|not a sentence-transformers folder") as said:
        run_step(step, SECTIONS, **{**places(step, root), **files, "model": model})
    assert model in str(said.value)
    assert said.value.exit_code in (2, InputError.exit_code)
