"""`--dry-run` says what a training would do and take, and leaves everything as it was."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import cli
from tests.fixtures.small_corpus import SMALL, records, run_step, write_dataset

BERT = {"type": "transformer", "layers": 1, "hidden": 16, "heads": 2, "intermediate": 16, "max_positions": 32}
ENCODER: dict[str, Any] = {"model": BERT, "matryoshka": {"dims": [16]}, "max_tokens": 32, "teachers": {}}
TOKENIZER = {"vocab_size": 400, "min_frequency": 1}
CONTRAST = {"contrast": {"batch_size": 16}}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with records; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_dataset("data/score", records())
    return tmp_path


def forecast(capsys: pytest.CaptureFixture[str], step: str, code: int = 0, **section: Any) -> tuple[str, str]:
    """Both streams of `embedmill STEP --dry-run`; no file may have come, gone or changed."""
    Path("params.yaml").write_text(yaml.safe_dump({"run": {"threads": 1}, step: section}))
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    capsys.readouterr()
    assert cli._run([step, "--dry-run"], debug=False) == code
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    shown = capsys.readouterr()
    return shown.out, shown.err


def test_pretraining_of_a_static_model(capsys: pytest.CaptureFixture[str]) -> None:
    shown, _ = forecast(capsys, "pretrain", **SMALL, **CONTRAST)
    assert "  * pretrain.vocab_size = 400\n" in shown
    assert "    pretrain.warmup = 0.1\n" in shown
    assert "records: 120 cls_contrast, 120 cosent, 120 retri_contrast; " in shown
    assert "retri_contrast: 120 rows in 7 batches of 16 rows; 8 rows left over" in shown
    assert "contrast: 21 steps of about" in shown
    assert re.search(r"moments of AdamW +100\.0 KiB", shown)
    assert "time on this machine" in shown
    assert "FLOPs" not in shown


def test_finetuning_of_a_transformer_with_all_tasks_in_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    run_step("pretrain", {"pretrain": {**ENCODER, **TOKENIZER, "objective": "none"}})
    roles = {"sampling": "balanced", "roles": {"retrieval": 2, "similarity": 1, "classes": 1}}
    batches = {name: {"batch_size": 8} for name in ("retrieval", "similarity", "classes")}
    shown, _ = forecast(capsys, "finetune", **batches, schedule=roles, precision="fp32")
    assert "balanced schedule: 15 steps in 1 epochs" in shown
    assert "2 roles in every step" in shown
    assert re.search(r"finetune: 15 steps of about [\d,]+ tokens in \d+ texts", shown)
    assert re.search(r"\d FLOPs; on 1 × H100 at 40% of its peak: .* GPU-hours, .* at 2\.5 an hour", shown)
    assert "activations" in shown


def test_a_budget_of_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    run_step("pretrain", {"pretrain": {**SMALL, "objective": "none"}})
    shown, _ = forecast(capsys, "finetune", schedule={"batch_tokens": 512})
    assert "512 tokens" in shown


def test_a_model_that_is_out_of_reach_ends_it_after_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    named = {**ENCODER, "model": {"type": "transformer", "name": "org/name"}, "matryoshka": {"dims": None}}
    shown, said = forecast(capsys, "pretrain", 2, **named, **CONTRAST)
    assert "batches of 16 rows" in shown
    assert said == "embedmill: model 'org/name': no such folder, and the hub cannot be reached to look there\n"


def test_only_steps_that_train_have_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._run(["filter", "--dry-run"], debug=False) == 2
    assert "No such option '--dry-run'" in capsys.readouterr().err
