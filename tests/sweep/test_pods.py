"""A sweep as the tasks of pipelines/sweep.yaml run it: pods as processes in empty folders, everything else in S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from components import chain
from components.core import storage
from tests.conftest import PROJECT
from tests.fixtures.seaweed import S3Bucket
from tests.fixtures.small_corpus import SMALL, records, write_dataset

SECTIONS: dict[str, Any] = {
    "sweep": {"grid": {"finetune.lr": [0.001, 0.02]}, "metric": "graded@16"},
    "run": {"threads": 1, "workers": 1},
    "pretrain": SMALL,
    "finetune": {"mining": {"last": 8}},
    "export": {},
    "evaluate": {"suite": [{"name": "graded", "type": "heldout", "source": "graded"}], "dims": [32, 16]},
    "score": {"teachers": {}},
}


@dataclass
class Pods:
    """Runs commands as pods do."""

    path: Path
    root: str
    numbers: Any

    def run(self, *command: str, expect: int = 0) -> str:
        """Run `embedmill COMMAND…` in an empty folder; returns what it said."""
        folder = self.path / f"pod-{next(self.numbers)}"
        folder.mkdir()
        line = [sys.executable, "-m", "components.cli", *command]
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == expect, done.stderr
        return done.stderr

    def step(self, name: str, made: dict[str, str], overrides: str = "") -> str:
        """Run a step on what was made, by path in a project, and add its outputs to that."""
        step = chain.step(name)
        arguments = [*sections("run", *step.sections), "--tolerant", "--run", "run-1"]
        for port in step.inputs:
            arguments += ["--in", port.name, made[port.default]]
        ports = {port: self.path / f"{name}-{port.name}" for port in step.outputs if not port.optional}
        for port, file in ports.items():
            arguments += ["--out", port.name, str(file)]
        said = self.run("pod", name, "--root", self.root, *arguments, "--overrides", overrides)
        made |= {port.default: file.read_text() for port, file in ports.items()}
        return said


def sections(*names: str) -> list[str]:
    return [each for name in names for each in ("--section", name, json.dumps(SECTIONS[name]))]


def test_trials_as_pods_share_their_pretraining_and_one_is_chosen(s3: S3Bucket, tmp_path: Path) -> None:
    pods = Pods(tmp_path, f"{s3.uri}/root", count())
    start = {"data/score": f"{s3.uri}/score", "data/heldout": f"{s3.uri}/heldout", "data/suite.json": f"{s3.uri}/suite"}
    write_dataset(start["data/score"], records())
    write_dataset(start["data/heldout"], records())
    storage.write_bytes(start["data/suite.json"], b"{}\n")
    files = {"output": tmp_path / "trials.json", "pretrainings": tmp_path / "pretrainings.json"}
    places = [each for name, file in files.items() for each in (f"--{name}", str(file))]
    pods.run("sweep", "plan", *sections("sweep", "run", "pretrain", "finetune"), "--recipe", "", *places)
    trials, pretrainings = (json.loads(file.read_bytes()) for file in files.values())

    for pretraining in pretrainings:
        assert "was made by an earlier pod" not in pods.step("pretrain", dict(start), pretraining["overrides"])
    metrics = []
    for trial in trials:
        made = dict(start)
        assert "was made by an earlier pod" in pods.step("pretrain", made, trial["pretrain"])
        pods.step("finetune", made, trial["overrides"])
        pods.step("export", made)
        pods.step("evaluate", made)
        metrics.append(made["reports/evaluate/metrics.json"])
    folder = f"{pods.root}/sweep/run-1"
    listed = ["--trials", files["output"].read_text(), "--metrics", json.dumps(metrics)]
    pods.run("sweep", "choose", *sections("sweep"), "--recipe", "", *listed, "--output", folder)

    pods.run("sweep", "check", "--output", folder)
    measured = [json.loads(storage.read_bytes(uri))["systems"]["model"]["graded"]["16"] for uri in metrics]
    assert len(set(measured)) == 2
    results = json.loads(storage.read_bytes(f"{folder}/results.json"))
    assert [trial["value"] for trial in results["trials"]] == measured
    best = yaml.safe_load(storage.read_bytes(f"{folder}/best.yaml"))
    assert best == {"finetune": {"lr": [0.001, 0.02][measured.index(max(measured))]}}


def test_a_trial_that_fails_passes_its_failure_on_and_the_run_fails_last(s3: S3Bucket, tmp_path: Path) -> None:
    pods = Pods(tmp_path, f"{s3.uri}/root", count())
    start = {"data/score": f"{s3.uri}/score", "data/heldout": f"{s3.uri}/heldout", "data/suite.json": f"{s3.uri}/suite"}
    for name in ("data/score", "data/heldout"):
        write_dataset(start[name], records())
    storage.write_bytes(start["data/suite.json"], b"{}\n")
    overrides = json.dumps({"finetune.lr": 1e60})

    made = dict(start)
    pods.step("pretrain", made)
    pods.step("finetune", made, overrides)
    assert "pod: export makes nothing, since finetune failed: " in pods.step("export", made)
    pods.step("evaluate", made)
    metrics = made["reports/evaluate/metrics.json"]
    assert json.loads(storage.read_bytes(metrics))["exit_code"] == 3
    trials = json.dumps([{"name": "bad", "overrides": overrides, "pretrain": "{}"}])
    folder = f"{pods.root}/sweep/run-1"
    listed = ["--trials", trials, "--metrics", json.dumps([metrics])]
    pods.run("sweep", "choose", *sections("sweep"), *listed, "--output", folder)
    (trial,) = json.loads(storage.read_bytes(f"{folder}/results.json"))["trials"]
    assert trial["failure"].startswith("finetune: ") and trial["failure"].endswith("the loss is nan; lower the lr")
    said = pods.run("sweep", "check", "--output", folder, expect=3)
    assert "1 of 1 trials failed, the first one" in said
