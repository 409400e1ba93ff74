"""Checkpoints count only whole, and only for the run that made them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.core.errors import InputError
from components.training import checkpoint
from components.training.checkpoint import Cadence, Checkpoints, State
from components.training.tensorfile import write_tensors


def state(value: float) -> State:
    return State({"weight": torch.full((2, 2), value)}, {"log": [value]})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_newest_of_those_kept_is_resumed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "run", keep=2)
    for step in (1, 2, 10):
        checkpoints.save(step, state(step))
    assert names(tmp_path) == ["00000002", "00000010"]
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.tensors["weight"][0, 0] == 10
    assert latest.values == {"log": [10]}


def test_best_checkpoint_outlives_the_others(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "run", keep=1)
    for step, best in ((1, 1), (2, 2), (3, 2), (4, 2)):
        checkpoints.save(step, state(step), best)
    assert names(tmp_path) == ["00000002", "00000004"]
    assert checkpoints.read(2).values == {"log": [2]}


def test_checkpoint_of_another_run_is_ignored(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "run").save(1, state(1))
    changed = Checkpoints(tmp_path, "changed")
    assert changed.latest() is None
    with pytest.raises(InputError, match="from another run"):
        changed.read(1)


def test_checkpoints_of_a_run_with_other_parameters_do_not_push_out_new_ones(tmp_path: Path) -> None:
    for step in (600, 800):
        Checkpoints(tmp_path, "before").save(step, state(step))
    changed = Checkpoints(tmp_path, "changed")
    changed.save(200, state(200))
    latest = changed.latest()
    assert latest is not None
    assert latest.values == {"log": [200]}
    assert names(tmp_path) == ["00000200"]


def test_a_damaged_checkpoint_does_not_push_out_those_of_the_run_that_went_on(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "run", keep=1)
    checkpoints.save(1, state(1))
    checkpoints.save(8, state(8))
    (tmp_path / "00000008" / "state.json").write_text("{")
    checkpoints.save(4, state(4))
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.values == {"log": [4]}


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
    with pytest.raises(InputError, match="damaged"):
        checkpoints.read(2)


def test_half_written_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "run")
    (tmp_path / ".partial-00000007").mkdir()
    (tmp_path / ".partial-00000007" / "state.json").write_text("{")
    assert checkpoints.latest() is None
    assert names(tmp_path) == []
    checkpoints.save(1, state(1))
    assert checkpoints.latest() is not None
    checkpoints.clear()
    assert not tmp_path.exists()


def slowly(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing of tensors waits until the event is set."""
    let = threading.Event()

    def write(*arguments: object) -> str:
        assert let.wait(10)
        return write_tensors(*arguments)

    monkeypatch.setattr(checkpoint, "write_tensors", write)
    return let


def test_training_goes_on_while_the_state_of_its_step_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let = slowly(monkeypatch)
    checkpoints, weight, measured = Checkpoints(tmp_path, "run"), torch.ones(2, 2), [1]
    checkpoints.start(1, State({"weight": weight}, {"measured": measured}))
    assert checkpoints.busy
    weight.zero_()
    measured.append(2)
    let.set()
    checkpoints.wait()
    assert not checkpoints.busy
    read = checkpoints.read(1)
    assert read.tensors["weight"].tolist() == [[1, 1], [1, 1]]
    assert read.values == {"measured": [1]}


def test_state_too_large_for_a_copy_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "free_bytes", lambda: 15)
    monkeypatch.setattr(checkpoint, "_copied", lambda tensors: pytest.fail("copied"))
    checkpoints = Checkpoints(tmp_path, "run")
    checkpoints.start(1, state(1))
    assert not checkpoints.busy
    assert checkpoints.read(1).values == {"log": [1]}


def full(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    return write_tensors(Path("/dev/full"), tensors)


def test_failed_write_is_one_clear_line_and_leaves_the_last_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "kept", "run")
    checkpoints.save(1, state(1))

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    checkpoints.start(2, state(2))
    with pytest.raises(InputError, match="cannot be written \\(No space left on device\\)"):
        checkpoints.wait()
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.values == {"log": [1]}


def test_checkpoints_are_due_by_steps_or_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    cadence = Cadence(steps=3, minutes=1.0)
    assert [step for step in (1, 2, 3) if cadence.due(step)] == [3]
    cadence.began(3)
    assert not cadence.due(5)
    now[0] += 61
    assert cadence.due(4)
    cadence.began(4)
    assert [step for step in (5, 6, 7) if cadence.due(step)] == [7]
    cadence.began(0)
    now[0] += 1e6
    assert not Cadence().due(10**9)


def test_tensors_are_read_by_the_library_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "step": torch.tensor(3.0),
        "half": torch.arange(3, dtype=torch.bfloat16),
        "table": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
        "many": torch.arange(5_000_000, dtype=torch.int64),
        "none": torch.empty(0, 4),
        "flags": torch.tensor([True, False, True]),
    }
    digest = write_tensors(tmp_path / "some.safetensors", tensors)
    assert digest == checkpoint.digest_file(tmp_path / "some.safetensors")
    read = load_file(tmp_path / "some.safetensors")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)
