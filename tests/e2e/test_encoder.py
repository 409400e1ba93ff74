"""A transformer from nothing through the whole chain, and once more with fine-tuning killed in the middle."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.project import Project
from tests.e2e.test_chain import wait_for_holder

pytestmark = pytest.mark.e2e

MODELS = ("models/*/*.safetensors", "models/*/*/*.safetensors", "models/*/tokenizer.json")
LEFT = ("reports/finetune/loss.csv", "reports/finetune/negatives.csv")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("encoder"), recipe="encoder")
    project.run("embedmill", "run")
    project.made = project.digests(*MODELS, *LEFT)
    return project


def test_the_model_is_measured_described_and_searched_as_any_other(undisturbed: Project) -> None:
    metrics = json.loads((undisturbed.path / "reports/evaluate/metrics.json").read_text())
    assert metrics["systems"]["model"]["pydoc_named"]["256"] > 40
    card = (undisturbed.path / "models/export/README.md").read_text()
    assert "BERT family: 2 layers of 128 with 4 attention heads" in card
    assert "A scaling layer makes 256 dimensions of 128." in card
    found = undisturbed.run("embedmill", "search", "--model", "models/export", "--json", "render a template")
    assert len(json.loads(found[found.index("[") :])) == 5
    assert "reports/report.html" in undisturbed.run("embedmill", "run")


def test_every_step_holds_every_task_and_negatives_are_replaced(undisturbed: Project) -> None:
    with (undisturbed.path / LEFT[0]).open() as file:
        rows = list(csv.DictReader(file))
    by_step: dict[str, set[str]] = {}
    for row in rows:
        by_step.setdefault(row["step"], set()).add(row["task"])
    assert set(map(frozenset, by_step.values())) == {frozenset({"retri_contrast", "cosent", "cls_contrast"})}
    with (undisturbed.path / LEFT[1]).open() as file:
        negatives = list(csv.DictReader(file))
    assert {row["kind"] for row in negatives} == {"dynamic"}
    assert sum(int(row["replaced"]) for row in negatives) > 0


def test_finetuning_that_is_killed_goes_on_to_the_same_bytes(undisturbed: Project, tmp_path: Path) -> None:
    project = Project(tmp_path, recipe="encoder", git=False, env={"PYTHONHASHSEED": "7"})
    project.run("embedmill", "run", "pretrain")
    chain = project.start("dvc", "repro", "finetune")
    victim = wait_for_holder(project.path / ".embedmill/locks/finetune.lock", chain)
    folder = project.path / ".embedmill/checkpoints/finetune"
    while chain.poll() is None and not list(folder.glob("[0-9]*")):
        time.sleep(0.02)
    os.kill(victim, signal.SIGKILL)
    chain.wait()
    assert "goes on after step" in project.run("embedmill", "run", "finetune")
    made = project.digests("models/pretrain/*.safetensors", "models/finetune/*.safetensors", *LEFT)
    assert made == {name: undisturbed.made[name] for name in made}
