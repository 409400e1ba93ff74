"""Checkpoints count only whole, and only for the run that made them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from components.training.checkpoint import Checkpoints, State


def state(value: float) -> State:
    return State({"weight": torch.full((2, 2), value)}, {"log": [value]})


def test_newest_of_the_last_two_is_resumed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "run")
    for step in (1, 2, 10):
        checkpoints.save(step, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000002", "00000010"]
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.tensors["weight"][0, 0] == 10
    assert latest.values == {"log": [10]}


def test_checkpoint_of_another_run_is_ignored(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "run").save(1, state(1))
    assert Checkpoints(tmp_path, "changed").latest() is None


@pytest.mark.parametrize("damage", ["state.safetensors", "state.json", "COMPLETE", "extra"])
def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    target = tmp_path / "00000002" / damage
    target.write_bytes(target.read_bytes()[:-3] if target.exists() else b"x")
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.values == {"log": [1]}


def test_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "run")
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "state.json").write_text("{")
    assert checkpoints.latest() is None
    checkpoints.save(1, state(1))
    assert checkpoints.latest() is not None
    checkpoints.clear()
    assert not tmp_path.exists()
