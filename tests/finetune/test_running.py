"""What goes on beside fine-tuning: measuring, going on after a stop, curves, and a loss that is no number."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from components.core import tracking
from components.core.errors import InputError
from components.core.fingerprint import digest_file
from components.core.manifest import Dataset
from components.training.checkpoint import Checkpoints
from tests.fixtures.small_corpus import SMALL, records, run_step, write_dataset

OUTPUTS = (
    "models/finetune/model.safetensors",
    "reports/finetune/metrics.json",
    "reports/finetune/loss.csv",
    "reports/finetune/dev.csv",
)
SMALL_BATCHES = {"retrieval": {"batch_size": 16}, "similarity": {"batch_size": 16}, "classes": {"batch_size": 16}}
DEV = {"every": 3, "rows": 60, "patience": 3}
CHECKPOINTS = Path(".embedmill/checkpoints/finetune")


@pytest.fixture(autouse=True)
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_dataset("data/score", records())
    run_step("pretrain", {"pretrain": {**SMALL, "contrast": {"epochs": 1, "batch_size": 16}}})


def finetune(**params: Any) -> list[bytes]:
    run_step("finetune", {"finetune": {**SMALL_BATCHES, "epochs": 3, "checkpoint": {"steps": 2}, **params}})
    return [Path(output).read_bytes() for output in OUTPUTS]


def test_the_best_of_the_measured_models_is_left_and_a_stop_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = finetune(dev=DEV)
    dev = json.loads(undisturbed[1])["dev"]
    assert set(dev["best"]["tasks"]) == {"retrieval", "similarity", "classes"}
    assert dev["best"]["step"] % DEV["every"] == 0
    assert dev["measurements"] > 1
    rows = [line.split(",") for line in undisturbed[3].decode().splitlines()[1:]]
    assert {row[1]: row[2] for row in rows} == {
        "retrieval": "ndcg_at_10", "similarity": "spearman", "classes": "accuracy", "mean": "mean"
    }  # fmt: skip
    assert len(rows) == 4 * dev["measurements"]
    assert {int(row[0]) for row in rows if row[4] == "1"} == {dev["best"]["step"]}
    assert not CHECKPOINTS.exists()

    start = Checkpoints.start

    def start_and_fail(self: Checkpoints, step: int, state: Any, best: int | None) -> None:
        start(self, step, state, best)
        self.wait()  # or the next one would be due while this one is written
        if step >= 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "start", start_and_fail)
        finetune(dev=DEV)
    assert any(CHECKPOINTS.iterdir())
    assert finetune(dev=DEV) == undisturbed
    assert not CHECKPOINTS.exists()


def test_curves_are_drawn_where_a_server_is_named_and_know_their_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr("components.training.curves._END_SECONDS", 240.0)  # a new store on a busy machine
    client = tracking.connect()
    finetune(dev=DEV, mining={"dynamic": {"check_every": 2}})
    (run,) = tracking.find_runs(client, tracking.experiment_id(client), {tracking.STEP: "finetune"})
    assert run.info.status == tracking.FINISHED
    assert run.data.tags[tracking.LOSSES] == digest_file("reports/finetune/loss.csv")
    drawn = {"loss/retri_contrast", "loss/cosent", "loss/cls_contrast", "lr", "dev", "dev/retrieval"}
    assert {*drawn, "tokens_per_second"} <= set(run.data.metrics)
    assert any(key.startswith("negatives/") for key in run.data.metrics)


def test_a_loss_that_is_no_number_names_step_task_and_records_and_keeps_what_was_saved() -> None:
    with pytest.raises(
        InputError, match=r"finetune, step \d+, \w+ \(.*\d{5,}.*\): the loss is nan; lower the lr"
    ) as said:
        finetune(lr=1e38)
    ids = {str(identifier) for identifier in Dataset.open("data/score").read(["id"])["id"].to_pylist()}
    named = re.findall(r"\d{5,}", str(said.value))
    assert named
    assert ids.issuperset(named)
