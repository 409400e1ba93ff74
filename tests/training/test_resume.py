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

PROJECT = Path(__file__).resolve().parents[2]


def start(kind: str, folder: Path, *fate: int, processes: int = 1, restarts: int = 0) -> int:
    """Train in processes of their own; the exit code."""
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    launcher += ["--max-restarts", str(restarts), "--monitor-interval", "0.1"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "tests.training.resumable", kind, folder]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "TORCHELASTIC_LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [*map(str, command), *map(str, fate)], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120
    )
    (folder / "said").write_text(done.stdout + done.stderr)
    return done.returncode


def results(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("result-*.json"))]
    assert found, (folder / "said").read_text()
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


def test_one_of_two_is_killed_and_torchrun_starts_both_again(tmp_path: Path) -> None:
    assert start("transformer", tmp_path / "undisturbed", processes=2) == 0
    assert start("transformer", tmp_path / "killed", 14, signal.SIGKILL, 1, processes=2, restarts=1) == 0
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


def test_a_signal_to_one_stops_both_after_the_same_step(two: dict[str, Any], tmp_path: Path) -> None:
    assert start("static", tmp_path, 6, signal.SIGTERM, 1, processes=2) != 0
    said = [(tmp_path / f"interrupted-{rank}").read_text() for rank in (0, 1)]
    assert said == ["interrupted after step 8; the same command goes on from there"] * 2
    assert start("static", tmp_path, processes=2) == 0
    assert results(tmp_path) == [two, two]
