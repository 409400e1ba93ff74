"""Pods that share the stages of the filter, as processes: any number, any of them lost, several runs at a time."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from components.core import crew, storage
from components.core.manifest import Dataset
from components.core.part import Part
from components.core.settings import RunParams
from components.core.step import Context
from components.core.suite import EvaluateParams, SuiteParams
from components.filter import duplicate_shuffle, pipeline, semantic, semantic_shuffle
from components.filter.params import FilterParams
from components.filter.step import STEP
from tests.filter.test_pipeline import corpus, files
from tests.filter.test_semantic import corpus as reworded
from tests.fixtures.seaweed import S3Bucket

forked = multiprocessing.get_context("fork")
PARAMS = {"languages": ["en", "zh"], "task_memory": 1, "fluency": {"sample_texts": 300}}


QUICK = {"BEAT_SECONDS": 0.05, "LOOK_SECONDS": 0.02, "SILENT_SECONDS": 1.0}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and signs of life in tenths of seconds."""
    for name, seconds in QUICK.items():
        monkeypatch.setattr(crew, name, seconds)


@pytest.fixture
def inputs(tmp_path: Path, make_dataset: Callable[..., Dataset]) -> dict[str, str]:
    rows = corpus(120)
    make_dataset(tmp_path / "ingest", rows, 40)
    make_dataset(tmp_path / "heldout", [row for row in rows[:20] if row["task"] == "retri_contrast"])
    return {name: str(tmp_path / name) for name in ("ingest", "heldout")}


def do(inputs: dict[str, str], output: str, part: Part | None = None, **params: Any) -> None:
    suite = (SuiteParams(name="heldout", type="heldout"),)
    sections = {"filter": FilterParams.model_validate({**PARAMS, **params}), "evaluate": EvaluateParams(suite=suite)}
    outputs = {"output": output, "funnel": f"{output}.csv"}
    pipeline.run(Context("filter", RunParams(workers=1), sections, inputs, outputs, part=part))


@pytest.fixture
def alone(inputs: dict[str, str], tmp_path: Path) -> dict[str, bytes]:
    """What the step makes alone."""
    do(inputs, str(tmp_path / "alone/out"))
    return files(tmp_path / "alone")


def start(work: Callable[[], None]) -> Any:
    process = forked.Process(target=work)
    process.start()
    return process


def pods(
    inputs: dict[str, str], output: str, stage: str, numbers: Sequence[int], count: int, **params: Any
) -> list[Any]:
    """Start pods that share a stage."""
    return [start(partial(do, inputs, output, Part(stage, number, count), **params)) for number in numbers]


def ended(processes: Sequence[Any]) -> None:
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(processes)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_stages_then_the_step_give_the_bytes_of_the_step_alone(
    count: int, inputs: dict[str, str], alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path / "shared/out")
    for stage in STEP.stages:
        ended(pods(inputs, output, stage, range(count, 0, -1), count))
        assert not (tmp_path / "shared/out/manifest.json").exists()
    assert not list((tmp_path / "shared/out/_phases").rglob("signs/*/*"))

    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("left to the step")

    for module, work in (
        *((pipeline, name) for name in ("_judge_shard", "_sample_group", "_settle_group", "_write_shard")),
        *((duplicate_shuffle, name) for name in ("_keys", "_exact", "_bands", "_edges", "_verified", "_near")),
    ):
        monkeypatch.setattr(module, work, never)
    do(inputs, output)
    assert files(tmp_path / "shared") == alone


def do_semantic(inputs: dict[str, str], output: str, part: Part | None = None, **params: Any) -> None:
    """`do` with several cells, in a process of its own: threads of a model that others have used outlive no fork."""
    semantic.CELL_ROWS = 20
    for name, seconds in QUICK.items():
        setattr(crew, name, seconds)
    do(inputs, output, part, **params)


def test_pods_that_share_the_search_for_semantic_duplicates_give_the_bytes_of_the_step_alone(
    tmp_path: Path, make_dataset: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "CELL_ROWS", 20)  # several cells
    make_dataset(tmp_path / "ingest", reworded(80), 20)
    make_dataset(tmp_path / "heldout", [])
    inputs = {name: str(tmp_path / name) for name in ("ingest", "heldout")}
    params = {
        "languages": [],
        "fluency": None,
        "contamination": {"exact": False, "near": None},
        "semantic_duplicates": {"model": "wordllama", "threshold": 0.9},
    }

    def fresh(output: str, *parts: Part | None) -> None:
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=partial(do_semantic, inputs, output, part, **params)) for part in parts]
        for process in processes:
            process.start()
        ended(processes)

    fresh(str(tmp_path / "alone/out"), None)
    assert Dataset.open(str(tmp_path / "alone/out")).ledger.dropped["s"]["semantic_duplicate"] > 5
    output = str(tmp_path / "shared/out")
    for stage in STEP.stages:
        fresh(output, Part(stage, 2, 2), Part(stage, 1, 2))

    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError("left to the step")

    for work in ("_cells", "_place_rows", "_pairs", "_clusters"):
        monkeypatch.setattr(semantic_shuffle, work, never)
    do(inputs, output, **params)
    assert files(tmp_path / "shared") == files(tmp_path / "alone")


def test_a_pod_that_is_lost_or_never_starts_holds_nobody_up(
    inputs: dict[str, str], alone: dict[str, bytes], tmp_path: Path
) -> None:
    output = str(tmp_path / "shared/out")
    ended(pods(inputs, output, "judge", [1], 3))
    lost, *others = pods(inputs, output, "near", [2, 1], 4)  # no stage "exact"; pods 3 and 4 never start
    while not list((tmp_path / "shared/out/_phases").rglob("keys/0*")):
        time.sleep(0.002)
    os.kill(lost.pid, signal.SIGKILL)
    lost.join()
    ended(others)
    assert list((tmp_path / "shared/out/_phases").rglob("near/00000"))
    ended(pods(inputs, output, "write", [2], 3))
    assert list((tmp_path / "shared/out/shards").iterdir())
    do(inputs, output)
    assert files(tmp_path / "shared") == alone


def killed_at(inputs: dict[str, str], output: str, part: Part, where: str) -> None:
    """A pod that is killed in the middle of its first write to a path that holds `where`."""
    write = storage.open_write

    def write_or_die(uri: str) -> Any:
        if where in uri:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(uri)

    storage.open_write = write_or_die
    do(inputs, output, part)


@pytest.mark.parametrize(("stage", "where"), [("judge", "/judge/"), ("exact", "/exact/"), ("write", "/shards/")])
def test_the_step_makes_up_for_a_pod_that_was_killed(
    stage: str, where: str, inputs: dict[str, str], alone: dict[str, bytes], tmp_path: Path
) -> None:
    output = str(tmp_path / "shared/out")
    pod = start(partial(killed_at, inputs, output, Part(stage, 1, 2), where))
    pod.join(60)
    assert pod.exitcode == -signal.SIGKILL
    do(inputs, output)
    assert files(tmp_path / "shared") == alone


def whole_run(inputs: dict[str, str], output: str, number: int) -> None:
    """The stages, with one pod each of two, and then the step: what two runs of a pipeline do at one place."""
    for stage in STEP.stages:
        do(inputs, output, Part(stage, number, 2))
    do(inputs, output)


def test_equal_runs_at_once_end_with_the_bytes_of_one(
    inputs: dict[str, str], alone: dict[str, bytes], tmp_path: Path
) -> None:
    output = str(tmp_path / "shared/out")
    ended([start(partial(whole_run, inputs, output, number)) for number in (1, 2, 1)])
    assert files(tmp_path / "shared") == alone
    (tmp_path / "shared/out.csv").unlink()
    manifest = tmp_path / "shared/out/manifest.json"
    before = manifest.stat()
    ended([start(partial(do, inputs, output)) for _ in range(3)])
    assert files(tmp_path / "shared") == alone
    assert (manifest.stat().st_ino, manifest.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_equal_runs_at_once_in_a_bucket(
    inputs: dict[str, str], alone: dict[str, bytes], tmp_path: Path, s3: S3Bucket
) -> None:
    output = f"{s3.uri}/run/out"
    ended([start(partial(whole_run, inputs, output, number)) for number in (1, 2)])
    left = {
        info.uri.removeprefix(f"{s3.uri}/run/"): storage.read_bytes(info.uri) for info in storage.list_files(s3.uri)
    }
    assert left == alone


def test_a_run_whose_files_are_tidied_away_by_one_that_finished_ends_well(
    inputs: dict[str, str], alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges = duplicate_shuffle._edges

    def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(duplicate_shuffle, "_edges", edges)
        ended([start(partial(do, inputs, str(tmp_path / "shared/out")))])
        edges(*arguments)

    monkeypatch.setattr(duplicate_shuffle, "_edges", overtaken)
    do(inputs, str(tmp_path / "shared/out"))
    assert files(tmp_path / "shared") == alone

    shutil.rmtree(tmp_path / "ingest/shards")
    monkeypatch.setattr(pipeline, "open_finished", lambda *arguments, **more: None)
    with pytest.raises(Exception, match=r"ingest/shards/00000\.parquet: no such file"):
        do(inputs, str(tmp_path / "shared/out"))
