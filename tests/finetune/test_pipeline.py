"""The finetune step on a small corpus: three tasks together, hard negatives, the same bytes after a stop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from components.core.errors import InputError, UsageError
from components.core.settings import parse_section
from components.finetune.params import FinetuneParams
from components.training.checkpoint import Checkpoints
from components.training.model import load_model
from tests.fixtures.small_corpus import SMALL, records, run_step, write_dataset

WEIGHTS = Path("models/finetune/model.safetensors")
BATCHES = {
    "retrieval": {"batch_size": 16},
    "similarity": {"batch_size": 20},
    "classes": {"batch_size": 20, "negatives": 4},
}


@pytest.fixture(autouse=True)
def pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project folder with a dataset and a model pretrained on it; the working directory."""
    monkeypatch.chdir(tmp_path)
    write_dataset("data/score", records())
    run_step("pretrain", {"pretrain": {**SMALL, "contrast": {"epochs": 1, "batch_size": 16}}})


def finetune(threads: int = 1, **params: Any) -> bytes:
    run_step("finetune", {"finetune": {**BATCHES, **params}}, threads)
    return WEIGHTS.read_bytes()


def test_three_tasks_are_trained_together(capsys: pytest.CaptureFixture[str]) -> None:
    finetune(epochs=2, mining={"first": 0})
    model, config = load_model("models/finetune")
    assert model.digest != load_model("models/pretrain")[0].digest
    assert config["matryoshka_dims"] == [32, 16, 8]
    metrics = json.loads(Path("reports/finetune/metrics.json").read_text())
    assert metrics["records"] == {"retri_contrast": 120, "cosent": 120, "cls_contrast": 120}
    assert metrics["steps"] == {"retri_contrast": 7, "cosent": 6, "cls_contrast": 6}
    assert set(metrics["loss"]) == {"retri_contrast", "cosent", "cls_contrast"}
    lines = Path("reports/finetune/loss.csv").read_text().splitlines()
    assert lines[0] == "step,task,loss,lr,norm,tokens"
    assert len(lines) == 1 + 2 * 19
    assert "have hard negatives from ranks 0–32" in capsys.readouterr().err


def test_threads_change_no_byte_and_negatives_do() -> None:
    first = finetune(mining={"first": 0})
    assert finetune(threads=2, mining={"first": 0}) == first
    assert finetune(mining={"negatives": 0}) != first


def test_negatives_that_became_easy_are_replaced_and_a_stopped_run_ends_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eager = {"check_every": 3, "ratio": 1.001, "ceiling": 1.0, "offset": 2}
    params = {"epochs": 3, "mining": {"first": 0, "last": 4, "ceiling": 9.0, "dynamic": eager}}
    still = finetune(epochs=3, mining={**params["mining"], "dynamic": None})
    undisturbed = finetune(**params)
    metrics = json.loads(Path("reports/finetune/metrics.json").read_text())["negatives"]
    rows = Path("reports/finetune/negatives.csv").read_text()
    assert undisturbed != still
    assert metrics["replaced_in_all"] > 10
    assert metrics["minings"] > 0
    assert rows.startswith("step,kind,positive,negative,replaced,left\n1,dynamic,0.")
    start = Checkpoints.start

    def start_and_fail(self: Checkpoints, step: int, state: Any, best: int | None) -> None:
        start(self, step, state, best)
        raise KeyboardInterrupt  # at the first: a later one may be left out while this one is being written

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "start", start_and_fail)
        finetune(**params, checkpoint={"steps": 35})
    assert finetune(**params, checkpoint={"steps": 35}) == undisturbed
    assert Path("reports/finetune/negatives.csv").read_text() == rows


def test_stopped_run_goes_on_to_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = finetune(checkpoint={"steps": 10})
    start = Checkpoints.start

    def start_and_fail(self: Checkpoints, step: int, state: Any, best: int | None) -> None:
        start(self, step, state, best)
        raise KeyboardInterrupt  # at the first: a later one may be left out while this one is being written

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "start", start_and_fail)
        finetune(checkpoint={"steps": 10})
    assert finetune(checkpoint={"steps": 10}) == undisturbed


def test_one_task_alone_is_enough() -> None:
    write_dataset("data/score", [row for row in records() if row["task"] == "cls_contrast"])
    finetune()
    metrics = json.loads(Path("reports/finetune/metrics.json").read_text())
    assert metrics["records"] == {"cls_contrast": 120}


def test_given_negatives_are_used() -> None:
    rows = records()
    for row in rows:
        if row["task"] == "retri_contrast":
            row["text_neg"] = ["def draw_nothing()\nDraws nothing at all."]
        if row["task"] == "cls_contrast":
            row["text_neg"] = ["weather", "music"]
    without = finetune(mining={"negatives": 0})
    write_dataset("data/score", rows)
    assert finetune(mining={"negatives": 0}) != without


def test_unfinished_model_is_refused() -> None:
    Path("models/pretrain/modules.json").unlink()
    with pytest.raises(InputError, match=r"models/pretrain: no modules.json"):
        finetune()


def test_window_too_small_for_its_negatives_is_refused() -> None:
    value = {"mining": {"first": 8, "last": 9, "negatives": 2}}
    with pytest.raises(Exception, match=r"finetune.mining: last must be first \+ negatives \(10\) or more"):
        parse_section("finetune", FinetuneParams, value, "params.yaml")


def test_every_task_in_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    roles = {"retrieval": 2, "similarity": 2, "classes": 0}
    finetune(schedule={"sampling": "balanced", "roles": roles}, mining={"first": 0})
    metrics = json.loads(Path("reports/finetune/metrics.json").read_text())
    assert metrics["steps"] == {"retri_contrast": 7, "cosent": 14}
    lines = Path("reports/finetune/loss.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 7  # one of each task, similarity's the mean of its roles


def test_batches_of_one_source_within_a_budget_of_tokens() -> None:
    schedule = {"batch_tokens": 200, "same_source": True}
    finetune(schedule=schedule, mining={"first": 0})
    lines = Path("reports/finetune/loss.csv").read_text().splitlines()
    spent = [int(line.rsplit(",", 1)[1]) for line in lines[1:]]
    assert 100 < max(spent) < 300  # mined negatives are counted at their average


def test_role_without_records_is_refused_before_anything_is_mined(capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset("data/score", [row for row in records() if row["task"] != "cosent"])
    with pytest.raises(UsageError, match=r"^finetune.schedule.roles.similarity: 1 roles for an empty task"):
        finetune(schedule={"sampling": "balanced"})
    assert "hard negatives" not in capsys.readouterr().err


def test_every_option_of_the_retrieval_loss_is_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = records()
    for row in rows:
        if row["task"] == "retri_contrast":
            row["text_neg"] = ["def draw_nothing()\nDraws nothing at all."]
            row["meta"] = json.dumps({"pos_score": 0.9, "neg_scores": [0.1]})
    write_dataset("data/score", rows)
    options = {
        "learn_temperature": True,
        "in_batch": False,
        "symmetric": True,
        "query_query": True,
        "guide": {"model": "models/pretrain", "kind": "absolute", "margin": 0.5},
        "distill": {"kind": "kl_div", "temperature": 0.1},
    }
    plain = finetune()
    seen = {name: finetune(retrieval={"batch_size": 16, name: value}) for name, value in options.items()}
    assert len({plain, *seen.values()}) == 1 + len(options)
    together = {"retrieval": {"batch_size": 16, **options}, "matryoshka": {"weights": [1, 2, 1], "dims": [8, 16, 32]}}
    undisturbed = finetune(2, **together)
    learned = json.loads(Path("reports/finetune/metrics.json").read_text())["learned"]
    assert 0 < abs(learned["retrieval.log_scale"] - math.log(1 / 0.07)) < 0.5
    start = Checkpoints.start

    def start_and_fail(self: Checkpoints, step: int, state: Any, best: int | None) -> None:
        start(self, step, state, best)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "start", start_and_fail)
        finetune(**together, checkpoint={"steps": 10})
    assert finetune(**together, checkpoint={"steps": 10}) == undisturbed


def test_losses_without_negatives_or_scores_are_refused_before_mining(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"^finetune.retrieval.in_batch: false leaves no negatives"):
        finetune(retrieval={"batch_size": 16, "in_batch": False}, mining={"negatives": 0})
    with pytest.raises(UsageError, match=r"^finetune.retrieval.distill: no retrieval record has a teacher's scores"):
        finetune(retrieval={"batch_size": 16, "distill": {}})
    with pytest.raises(UsageError, match=r"nowhere"):
        finetune(retrieval={"batch_size": 16, "guide": {"model": "nowhere"}})
    assert "hard negatives" not in capsys.readouterr().err
