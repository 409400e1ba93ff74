"""A training that was killed, wherever and however, ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.seaweed import S3Bucket
from tests.training import forks, resumable

PROJECT = Path(__file__).resolve().parents[2]


def start(kind: str, folder: Path, *fate: int, processes: int = 1, mirror: str | None = None) -> int:
    """Train in processes of their own; the exit code of the first that did not end well, or 0."""
    folder.mkdir(exist_ok=True)
    return next(filter(None, forks.start(processes, folder, resumable.main, kind, folder, fate, mirror)), 0)


def torchrun(kind: str, folder: Path, *fate: int) -> int:
    """The same by torchrun, which starts two processes again when one ends; its exit code."""
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "--monitor-interval", "0.1", "-m", "tests.training.resumable", kind, str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "TORCHELASTIC_LOG_LEVEL": "ERROR"}
    with (folder / "said-by-torchrun").open("w") as said:
        run = [*command, *map(str, fate)]
        return subprocess.run(run, cwd=PROJECT, env=environment, stdout=said, stderr=said, timeout=240).returncode


def results(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("result-*.json"))]
    assert found, "\n".join(path.read_text() for path in folder.glob("said-*"))
    return found


@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_a_process_that_was_killed_goes_on(kind: str, tmp_path: Path) -> None:
    assert start(kind, tmp_path / "undisturbed") == 0
    assert start(kind, tmp_path / "killed", 14, signal.SIGKILL, 0) == -signal.SIGKILL
    assert start(kind, tmp_path / "killed") == 0
    (expected,), (found,) = results(tmp_path / "undisturbed"), results(tmp_path / "killed")
    assert found == {**expected, "resumed": True}
    assert expected["negatives"]["replaced_in_all"] > 5
    assert expected["negatives"]["minings"] > 1


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_here_it_goes_on_elsewhere(processes: int, s3: S3Bucket, tmp_path: Path) -> None:
    assert start("static", tmp_path / "undisturbed", processes=processes) == 0
    fate = (14, signal.SIGKILL, *range(processes))
    assert start("static", tmp_path / "here", *fate, processes=processes, mirror=s3.uri) != 0
    assert start("static", tmp_path / "elsewhere", processes=processes, mirror=s3.uri) == 0
    expected, found = results(tmp_path / "undisturbed"), results(tmp_path / "elsewhere")
    assert found == [{**one, "resumed": True} for one in expected]


def test_one_of_two_is_killed_and_torchrun_starts_both_again(tmp_path: Path) -> None:
    assert start("transformer", tmp_path / "undisturbed", processes=2) == 0
    assert torchrun("transformer", tmp_path / "killed", 14, signal.SIGKILL, 1) == 0
    first, second = results(tmp_path / "undisturbed")
    assert first == second
    assert results(tmp_path / "killed") == [{**first, "resumed": True}] * 2


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes find that nobody disturbs."""
    folder = tmp_path_factory.mktemp("two")
    assert start("static", folder, processes=2) == 0
    first, second = results(folder)
    assert first == second
    return {**first, "resumed": True}


def test_both_are_killed_and_started_again(two: dict[str, Any], tmp_path: Path) -> None:
    assert start("static", tmp_path, 14, signal.SIGKILL, 0, 1, processes=2) != 0
    assert start("static", tmp_path, processes=2) == 0
    assert results(tmp_path) == [two, two]


def test_one_process_goes_on_with_what_two_have_begun(two: dict[str, Any], tmp_path: Path) -> None:
    """The same plan, and the same losses but for the order of their sums."""
    assert start("static", tmp_path, 14, signal.SIGKILL, 0, 1, processes=2) != 0
    done = max(int(path.parent.name) for path in tmp_path.glob("checkpoints/0*/COMPLETE"))
    assert start("static", tmp_path) == 0
    (found,) = results(tmp_path)
    assert found["resumed"]
    assert len(found["log"]) == len(two["log"])
    for before, after in zip(two["log"], found["log"], strict=True):
        if after["step"] < done:
            assert after == before
        assert {**after, **{key: before[key] for key in ("loss", "norm")}} == before
        assert (after["loss"], after["norm"]) == pytest.approx((before["loss"], before["norm"]), rel=1e-4)
    assert found["log"] != two["log"], "one process sums in another order"
    assert done < len({row["step"] for row in found["log"]})


def test_a_signal_to_one_stops_both_after_the_same_step(two: dict[str, Any], tmp_path: Path) -> None:
    assert start("static", tmp_path, 6, signal.SIGTERM, 1, processes=2) == 5
    said = [(tmp_path / f"interrupted-{rank}").read_text() for rank in (0, 1)]
    assert said == ["interrupted after step 8; the same command goes on from there"] * 2
    assert start("static", tmp_path, processes=2) == 0
    assert results(tmp_path) == [two, two]
