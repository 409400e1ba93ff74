"""Pods that share the groups of score, and equal runs at one place."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.core.build import open_finished
from components.core.manifest import Dataset
from components.core.part import Part
from components.core.settings import RunParams
from components.core.step import Context
from components.core.teacher import ScoreParams
from components.score import pipeline
from tests.score.test_pipeline import ROWS, outputs, row, write


@pytest.fixture(autouse=True)
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "GROUP_ROWS", 6)
    write("in", [*ROWS, *(row("retri_contrast", f"read file {n}", f"Reads file {n % 3}.") for n in range(16))], 3)


def do(part: Part | None = None) -> None:
    sections = {"score": ScoreParams()}
    places = {"filter": "in"}, {"output": "out", "histogram": "histogram.csv"}
    pipeline.run(Context("score", RunParams(threads=1, workers=1), sections, *places, part=part))


def never(*arguments: Any, **more: Any) -> None:
    raise AssertionError("nothing was left to do")


@pytest.fixture
def alone() -> dict[str, str]:
    """What the step makes alone; the store of vectors goes as well."""
    do()
    made = outputs()
    for folder in ("out", ".embedmill"):
        shutil.rmtree(folder)
    Path("histogram.csv").unlink()
    return made


@pytest.mark.parametrize("order", [[1], [2, 1], [3, 1, 2], [5, 2, 4, 1], [3]])
def test_parts_give_the_bytes_of_the_step_alone(
    order: list[int], alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in order:
        do(Part("shards", number, max(order)))
    assert not Path("out/manifest.json").exists()
    assert not Path("histogram.csv").exists()
    if set(order) == set(range(1, max(order) + 1)):
        for name in ("_score_shards", "_write_shard"):
            monkeypatch.setattr(pipeline, name, never)
    do()
    assert outputs() == alone


# The command of the step, in a process that can kill itself, hard, when it stores its second vectors.
COMMAND = """
import os, signal, sys
from components.core.command import step_command
from components.core.settings import RunParams
from components.score import pipeline
from components.score.step import STEP
from components.training.vectors import VectorStore

pipeline.GROUP_ROWS = 6
put, left = VectorStore.put, [2]

def put_or_die(*arguments):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    put(*arguments)

if sys.argv.pop(1) == "dies":
    VectorStore.put = put_or_die
root = sys.argv.pop(1)
places = ["--filter", f"{root}/in", "--output", f"{root}/out", "--histogram", f"{root}/histogram.csv"]
sections = ["--section", "run", '{"workers": 1}', "--section", "score", "{}"]
step_command(STEP, lambda: {"run": RunParams, **STEP.sections})([*places, *sections, *sys.argv[1:]])
"""


def start(how: str, *arguments: str, folder: str = "pod") -> subprocess.Popen[bytes]:
    """Run the command in a folder of its own, for locks and vectors, as a pod has one."""
    Path(folder).mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", COMMAND, how, str(Path.cwd()), *arguments]
    return subprocess.Popen(command, env=environment, cwd=folder)


def test_the_step_makes_up_for_a_part_that_was_killed(alone: dict[str, str]) -> None:
    assert start("dies", "--stage", "shards", "--part", "1/2").wait(60) == -signal.SIGKILL
    assert list(Path("out/_scores").iterdir())
    do()
    assert outputs() == alone


def test_equal_runs_at_once_end_with_the_bytes_of_one(alone: dict[str, str]) -> None:
    parts = ((), (), ("--stage", "shards", "--part", "1/2"))
    runs = [start("lives", *part, folder=f"pod{number}") for number, part in enumerate(parts)]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    assert outputs() == alone


def test_a_finished_dataset_gives_its_histogram_again_without_scoring(
    alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    do()
    Path("histogram.csv").unlink()
    monkeypatch.setattr(pipeline, "_score", never)
    do()
    assert outputs() == alone


def test_a_run_whose_scores_are_tidied_away_by_one_that_finished_ends_well(
    alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Dataset | None] = []

    def look(*arguments: Any, **more: Any) -> Dataset | None:
        looks.append(open_finished(*arguments, **more))
        return looks[-1]

    def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(pipeline, "_read_json", read_json)
        assert start("lives").wait(60) == 0
        read_json(*arguments)

    read_json = pipeline._read_json
    monkeypatch.setattr(pipeline, "open_finished", look)
    monkeypatch.setattr(pipeline, "_read_json", overtaken)
    do()
    assert [bool(found) for found in looks] == [False, True]
    assert outputs() == alone
