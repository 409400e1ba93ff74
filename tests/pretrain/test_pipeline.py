"""The pretrain step on a small corpus: what it writes, and that nothing but its inputs decides it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.core.errors import InputError, UsageError
from components.pretrain import pipeline
from components.training.encoder import Encoder
from components.training.model import load_model
from tests.fixtures.small_corpus import SMALL, records, run_step, write_dataset
from tests.training import forks

PROJECT = Path(__file__).resolve().parents[2]
WEIGHTS = "models/pretrain/model.safetensors"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder with a dataset; the working directory."""
    monkeypatch.chdir(tmp_path)
    write_dataset("data/score", records())
    return tmp_path


def pretrain(threads: int = 1, **params: Any) -> bytes:
    run_step("pretrain", {"pretrain": {**SMALL, "contrast": {"epochs": 2, "batch_size": 16}, **params}}, threads)
    return Path(WEIGHTS).read_bytes()


def test_model_finds_passages_and_reports_its_losses(capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(contrast={"epochs": 8, "batch_size": 16})
    model, config = load_model("models/pretrain")
    assert config["matryoshka_dims"] == [32, 16, 8]
    assert config["training"]["records"] == {"classes": 120, "graded": 120, "pairs": 120}
    pairs = [row for row in records() if row["task"] == "retri_contrast"]
    scores = model.encode([row["text"] for row in pairs]) @ model.encode([row["text_pos"] for row in pairs]).T
    assert (scores.argmax(axis=1) == np.arange(len(pairs))).mean() > 0.9

    rows = list(csv.DictReader(Path("reports/pretrain/loss.csv").read_text(encoding="utf-8").splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(8 * 7))
    assert {row["task"] for row in rows} == {"retri_contrast"}
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) / 2
    metrics = json.loads(Path("reports/pretrain/metrics.json").read_text())
    assert metrics["steps"] == 56
    assert metrics["records"] == 360
    assert not Path(".embedmill/checkpoints/pretrain").exists()
    assert "distinct texts" in capsys.readouterr().err


def _pretrain_in(folder: Path, other: float) -> int:
    """Pretrain as one of several processes; on the second one's machine the start weights differ by `other`."""
    start = pipeline.start_static

    def started(*arguments: Any) -> Any:
        model = start(*arguments)
        model.weight_VD += other * int(os.environ["RANK"])
        return model

    pipeline.start_static = started  # type: ignore[assignment]
    os.chdir(folder)
    pretrain()
    return 0


def test_all_processes_start_with_the_weights_of_the_first(project: Path) -> None:
    made = []
    for other in (0.0, 0.01):
        assert forks.start(2, project, _pretrain_in, project, other) == [0, 0]
        made.append(Path(WEIGHTS).read_bytes())
    assert made[0] == made[1]


def test_threads_and_repetition_change_no_byte() -> None:
    first = pretrain()
    assert pretrain(threads=2) == first
    assert pretrain(precision="fp32") != first


def test_tokenizer_can_be_given() -> None:
    pretrain()
    first, _ = load_model("models/pretrain")
    Path("tokenizer.json").write_text(first.tokenizer.to_str())
    pretrain(tokenizer="tokenizer.json", max_tokens=9)
    second, _ = load_model("models/pretrain")
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    assert second.tokenizer.truncation["max_length"] == 9


def fake_teacher(spec: str) -> Encoder:
    """Texts with the same first word have the same vector."""

    def embed(texts: Any) -> np.ndarray:
        rows = [np.random.default_rng(sum(map(ord, text.split(" ")[0]))).standard_normal(8) for text in texts]
        return np.array(rows, dtype=np.float32)

    return Encoder(spec, "digest", 8, embed)


def test_distillation_takes_over_what_the_teacher_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "open_encoder", fake_teacher)
    distill = {"languages": ["en"], "epochs": 30, "batch_size": 32, "lr": 0.05}
    pretrain(objective="distill", teachers={"en": "wordllama"}, distill=distill)
    model, _ = load_model("models/pretrain")
    same, other = model.encode(["read a lock", "read a queue", "write a queue"])[:, :8] @ np.eye(8), None
    same /= np.linalg.norm(same, axis=1, keepdims=True)
    other = same[1] @ same[2]
    assert same[0] @ same[1] > other + 0.3
    tasks = {line.split(",")[1] for line in Path("reports/pretrain/loss.csv").read_text().splitlines()[1:]}
    assert tasks == {"distill"}


def test_both_distils_one_language_and_contrasts_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "open_encoder", fake_teacher)
    rows = records("en")
    half = len(rows) // 2
    write_dataset("data/score", [{**row, "lang": "zh"} for row in rows[:half]] + rows[half:])
    pretrain(teachers={"zh": "universal"}, distill={"languages": ["zh"], "epochs": 1, "batch_size": 32})
    tasks = [line.split(",")[1] for line in Path("reports/pretrain/loss.csv").read_text().splitlines()[1:]]
    assert list(dict.fromkeys(tasks)) == ["distill", "retri_contrast"]
    assert tasks.count("retri_contrast") == 2 * (60 // 16)


def test_language_without_its_teacher_is_contrasted() -> None:
    pretrain(teachers={"zh": "universal"}, distill={"languages": ["en"]})
    assert "retri_contrast" in Path("reports/pretrain/loss.csv").read_text()


def test_distillation_without_a_language_of_the_corpus_is_refused() -> None:
    with pytest.raises(UsageError, match=r"pretrain.distill.languages: .*\(languages of the records: en\)"):
        pretrain(objective="distill", distill={"languages": ["zh"]})


def test_empty_dataset_is_refused() -> None:
    write_dataset("data/score", [])
    with pytest.raises(InputError, match="data/score: no records to train on"):
        pretrain()


def test_corpus_without_retrieval_pairs_still_gives_a_model() -> None:
    write_dataset("data/score", [row for row in records() if row["task"] == "cosent"])
    pretrain()
    assert load_model("models/pretrain")[0].dims == 32


def test_stopped_process_goes_on_to_the_same_bytes(project: Path) -> None:
    params = {**SMALL, "contrast": {"epochs": 60, "batch_size": 16}, "checkpoint": {"steps": 20}}
    run_step("pretrain", {"pretrain": params})
    undisturbed = (project / WEIGHTS).read_bytes()
    (project / "models/pretrain/modules.json").unlink()
    (project / WEIGHTS).unlink()
    (project / "params.yaml").write_text(yaml.safe_dump({"run": {"threads": 1}, "pretrain": params}))
    command = [sys.executable, "-m", "components.cli", "pretrain"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    checkpoints = project / ".embedmill" / "checkpoints" / "pretrain"
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 5)):
        known = set(checkpoints.glob("[0-9]*"))
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and not set(checkpoints.glob("[0-9]*")) - known:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
        process.send_signal(number)
        assert process.wait() == code
        assert not (project / WEIGHTS).exists()
    run_step("pretrain", {"pretrain": params})
    assert (project / WEIGHTS).read_bytes() == undisturbed
