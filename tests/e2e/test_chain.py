"""Whole chains, as a person runs them: once undisturbed, once killed at every step, and once more with feedback."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.project import Project

pytestmark = pytest.mark.e2e

MADE = ("data/*/manifest.json", "data/*/shards/*", "models/*/*.safetensors", "models/*/tokenizer.json")
KILLED = ("ingest", "filter", "pretrain", "finetune")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    assert "The chain took" in project.run("embedmill", "run")
    project.made = project.digests(*MADE)
    return project


def test_the_chain_ends_with_model_scores_report_and_searches(undisturbed: Project) -> None:
    version = json.loads((undisturbed.path / "reports/register/version.json").read_text())
    assert version["version"] == 1
    assert (undisturbed.path / "reports/report.html").stat().st_size > 10_000
    shown = undisturbed.run("embedmill", "run")
    assert "Nothing to do: every step is up to date." in shown
    assert "Running stage 'ingest'" not in shown
    for expected in ("bm25", "1024", "reports/report.html", "models/export"):
        assert expected in shown
    assert shown.count("\n? ") == 3


def test_a_changed_parameter_reruns_only_what_depends_on_it(undisturbed: Project) -> None:
    params = undisturbed.path / "params.yaml"
    params.write_text(params.read_text().replace("workers: 0", "workers: 1"))
    assert "Nothing to do" in undisturbed.run("embedmill", "run")
    params.write_text(params.read_text().replace("examples: 12", "examples: 4"))
    shown = undisturbed.run("embedmill", "run")
    ran = [line.split("'")[1] for line in shown.splitlines() if line.startswith("Running stage ")]
    assert ran == ["sources", "evaluate", "report"]
    assert len(json.loads((undisturbed.path / "reports/evaluate/examples.json").read_text())) == 4


def test_feedback_is_trained_on_exactly_once(undisturbed: Project) -> None:
    feedback = undisturbed.path / "feedback"
    feedback.mkdir()
    rows = [
        {"query": f"how do I stop option {n} from being shown", "clicked": f"Option {n} is hidden by hidden=True."}
        for n in range(40)
    ]
    (feedback / "monday.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    undisturbed.run("embedmill", "flywheel", "poll")
    sources = json.loads((undisturbed.path / "data/sources.json").read_text())["sources"]
    assert any(source["name"] == "feedback" for source in sources)
    manifest = json.loads((undisturbed.path / "data/ingest/manifest.json").read_text())
    assert manifest["ledger"]["rows_in"]["feedback"] == 40
    locked = (undisturbed.path / "dvc.lock").read_bytes()
    undisturbed.run("embedmill", "flywheel", "poll")
    assert (undisturbed.path / "dvc.lock").read_bytes() == locked


def test_a_chain_killed_at_every_step_gives_the_same_bytes(undisturbed: Project, tmp_path: Path) -> None:
    """Also without git, with another hash seed and another number of workers."""
    random_moment = random.Random(7)
    project = Project(tmp_path, git=False, env={"PYTHONHASHSEED": "123"})
    params = project.path / "params.yaml"
    params.write_text(params.read_text().replace("workers: 0", "workers: 1"))
    project.run("embedmill", "run", "sources")
    for step in KILLED:
        lock = project.path / f".embedmill/locks/{step}.lock"
        chain = project.start("dvc", "repro", step)
        step_process = wait_for_holder(lock, chain)
        time.sleep(random_moment.uniform(0, 2.0))
        # the step alone, or dvc above it, whose step must then die with it
        victim = step_process if random_moment.random() < 0.5 else chain.pid
        kill(victim)
        chain.wait()
    project.run("embedmill", "run")
    assert project.digests(*MADE) == undisturbed.made


def wait_for_holder(lock: Path, chain: subprocess.Popen[bytes]) -> int:
    """The process that holds the step's lock, as soon as there is one."""
    while chain.poll() is None:
        if lock.exists() and (text := lock.read_text()).isdigit():
            return int(text)
        time.sleep(0.02)
    raise AssertionError(f"{lock.stem} ended before it could be killed")


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return  # it was quicker than we are: nothing was interrupted


def test_a_wrong_parameter_ends_the_chain_with_the_exit_code_of_the_step(undisturbed: Project) -> None:
    params = undisturbed.path / "params.yaml"
    right = params.read_text()
    params.write_text(right.replace("languages: [en]", "languges: [en]"))
    assert "filter.languges: unknown key; did you mean languages?" in undisturbed.run("embedmill", "run", expect=2)
    params.write_text(right)
    assert "Nothing to do" in undisturbed.run("embedmill", "run")
