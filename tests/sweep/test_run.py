"""Trials on this machine: what is equal is done once, what is done stays done, what fails stops no other."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.errors import InputError
from components.sweep.local import Workshop
from components.sweep.trials import plan
from tests.conftest import PROJECT, Embedmill
from tests.fixtures.small_corpus import SMALL, records, run_step, write_dataset

SUITE = [
    {"name": "pairs", "type": "heldout", "source": "pairs"},
    {"name": "graded", "type": "heldout", "source": "graded"},
]
PARAMETERS: dict[str, Any] = {
    "run": {"threads": 1, "workers": 1},
    "pretrain": SMALL,
    "finetune": {"mining": {"last": 8}},
    "evaluate": {"suite": SUITE, "dims": [32, 16]},
    "score": {"teachers": {}},
}
GONE = {"model": "models/gone"}
WAIT_SECONDS = 120.0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the chain leaves before training: records, held-out records, the suite's list."""
    monkeypatch.chdir(tmp_path)
    write_dataset("data/score", records())
    write_dataset("data/heldout", records())
    Path("data/suite.json").write_text("{}\n")
    return tmp_path


def write_params(**sweep: Any) -> None:
    Path("params.yaml").write_text(yaml.safe_dump({**PARAMETERS, "sweep": sweep}, sort_keys=False))


def folders(grid: dict[str, Any], **sweep: Any) -> list[list[str]]:
    """The folder of each step, trial by trial."""
    parameters = {**PARAMETERS, "sweep": {"grid": grid, **sweep}}
    trials = plan(parameters, "test")
    workshop = Workshop(parameters, trials, print)
    return [[str(work.folder) for work in workshop.plan(trial)] for trial in trials]


def test_trials_share_the_steps_in_which_they_are_equal(project: Path) -> None:
    works = folders({"pretrain.vocab_size": [300, 400], "finetune.lr": [0.01, 0.02]}, seeds=[1])
    assert [len({work[step] for work in works}) for step in range(4)] == [2, 4, 4, 4]
    assert works[0][0] == works[1][0]
    run_step("pretrain", {"pretrain": SMALL})
    shared = folders({"finetune.lr": [0.01, 0.02]}, seeds=[1, 2])
    assert [len(work) for work in shared] == [3, 3, 3, 3]
    assert len({work[0] for work in shared}) == 4


def test_a_step_is_done_again_where_anything_that_decides_it_has_changed(project: Path) -> None:
    run_step("pretrain", {"pretrain": SMALL})
    (before,) = folders({"finetune.lr": [0.01]})
    assert folders({"finetune.lr": [0.01], "finetune.keep": [0.3]})[0] == before  # what is the default is no change
    Path("data/suite.json").write_text('{"pairs": {}}\n')
    after = folders({"finetune.lr": [0.01]})[0]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False]
    weights = Path("models/pretrain/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    assert folders({"finetune.lr": [0.01]})[0][0] != before[0]
    weights.unlink()
    for file in Path("models/pretrain").rglob("*"):
        if file.is_file():
            file.unlink()
    with pytest.raises(InputError, match=r"models/pretrain: nothing there; run `embedmill run pretrain` first"):
        folders({"finetune.lr": [0.01]})


def test_a_killed_sweep_goes_on_and_a_failing_trial_stops_no_other(project: Path, embedmill: Embedmill) -> None:
    run_step("pretrain", {"pretrain": SMALL})
    write_params(grid={"finetune.lr": [0.001, 0.02]}, metric="graded")
    killed = subprocess.Popen(
        [sys.executable, "-m", "components.cli", "sweep", "run"], env={**os.environ, "PYTHONPATH": str(PROJECT)}
    )
    work = Path(".embedmill/sweep")
    wait_for(lambda: len(list(work.glob("finetune/*"))) == 2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    first = {path: path.stat().st_mtime_ns for path in work.glob("evaluate/*/done.json")}
    assert len(first) == 1
    done = embedmill("sweep", "run")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert not (work / "pretrain").exists()
    assert not list(work.glob("*/*/*.safetensors")) + list(work.glob("*/*/*/*.safetensors"))
    results = json.loads(Path("reports/sweep/results.json").read_text())
    by_lr = {trial["values"]["finetune.lr"]: trial["value"] for trial in results["trials"]}
    best = yaml.safe_load(Path("reports/sweep/best.yaml").read_text())
    assert by_lr[best["finetune"]["lr"]] == max(by_lr.values())
    assert f"Best: graded {max(by_lr.values()):.2f}" in done.stdout

    write_params(grid={"finetune.retrieval.guide": [GONE, None], "finetune.lr": [0.001, 0.02]}, metric="graded")
    failed = embedmill("sweep", "run")
    assert failed.returncode == 2, failed.stderr  # as the step ended
    assert "2 of 4 trials failed, the first one" in failed.stderr.splitlines()[-1]
    with Path("reports/sweep/results.csv").open(newline="") as file:
        states = [row["state"] for row in csv.DictReader(file)]
    assert [state.startswith("failed: finetune: encoder 'models/gone'") for state in states] == [
        True,
        True,
        False,
        False,
    ]
    # what was measured under the smaller grid counts in the larger one
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(list(work.glob("evaluate/*/done.json"))) == 2


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
