"""Checkpoints on a real S3 server: whole or not there, pruned and cleared as the local ones, gone on from elsewhere."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from components.core import storage
from components.core.errors import InputError
from components.training.checkpoint import Checkpoints, State
from tests.fixtures.seaweed import S3Bucket


def state(value: float) -> State:
    return State({"weight": torch.full((2, 2), value), "done": torch.tensor(True)}, {"log": [value]})


def mirrored(s3: S3Bucket) -> list[str]:
    return sorted(info.uri.removeprefix(f"{s3.uri}/kept/") for info in storage.list_files(f"{s3.uri}/kept"))


def values(checkpoints: Checkpoints) -> Any:
    latest = checkpoints.latest()
    return None if latest is None else latest.values["log"][0]


@pytest.fixture
def machines(s3: S3Bucket, tmp_path: Path) -> Any:
    """Checkpoints of machines that share nothing but the mirror."""

    def machine(name: str, fingerprint: str = "run", **more: Any) -> Checkpoints:
        return Checkpoints(tmp_path / name, fingerprint, mirror=f"{s3.uri}/kept", **more)

    return machine


def files(*steps: int) -> list[str]:
    return [f"{step:08d}/{name}" for step in steps for name in ("COMPLETE", "state.json", "state.safetensors")]


def test_another_machine_goes_on_and_takes_over_what_is_kept(s3: S3Bucket, machines: Any, tmp_path: Path) -> None:
    first = machines("first")
    for step in (1, 2, 3):
        first.save(step, state(step), best=1)
    assert mirrored(s3) == files(1, 2, 3)
    second = machines("second")
    assert values(second) == 3
    for name in ("state.safetensors", "state.json", "COMPLETE"):
        path = f"00000003/{name}"
        assert (tmp_path / "second" / path).read_bytes() == (tmp_path / "first" / path).read_bytes()
    second.save(4, state(4), best=1)
    assert mirrored(s3) == files(1, 3, 4)
    second.save(5, state(5), best=1)
    assert mirrored(s3) == files(1, 4, 5)
    assert machines("third").read(1).values == {"log": [1]}, "the best one"
    second.clear()
    assert mirrored(s3) == []
    assert machines("fourth").latest() is None


def test_a_killed_upload_is_no_checkpoint(s3: S3Bucket, machines: Any) -> None:
    first = machines("first")
    first.save(1, state(1))
    first.save(2, state(2))
    storage.remove(f"{s3.uri}/kept/00000002/COMPLETE")
    second = machines("second")
    assert values(second) == 1
    second.save(3, state(3))
    assert mirrored(s3) == files(1, 3), "what was left of it is gone"


@pytest.mark.parametrize("damage", ["state.safetensors", "state.json", "COMPLETE"])
def test_a_damaged_one_falls_back_to_the_one_before_and_does_not_come_back(
    s3: S3Bucket, machines: Any, damage: str
) -> None:
    first = machines("first")
    first.save(1, state(1))
    first.save(9, state(9))
    uri = f"{s3.uri}/kept/00000009/{damage}"
    storage.write_bytes(uri, storage.read_bytes(uri)[:-3])
    second = machines("second")
    assert values(second) == 1
    second.save(2, state(2))
    assert mirrored(s3) == files(1, 2)


def test_one_of_another_training_is_neither_gone_on_from_nor_kept(s3: S3Bucket, machines: Any) -> None:
    machines("first", "before").save(1, state(7))
    changed = machines("second", "changed")
    assert changed.latest() is None
    changed.save(1, state(1))
    assert values(machines("third", "changed")) == 1
    with pytest.raises(InputError, match="from another run"):
        machines("fourth", "before").read(1)


def test_an_upload_that_fails_is_said_once_and_made_up_for(
    s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    said: list[str] = []
    uri = "s3://made-later/kept"
    first = Checkpoints(tmp_path / "first", "run", mirror=uri, say=said.append)
    first.save(1, state(1))
    first.save(2, state(2))
    assert len(said) == 1
    assert "a checkpoint is on this machine alone for now" in said[0]
    assert values(Checkpoints(tmp_path / "first", "run")) == 2, "it counts here"
    boto3.client("s3").create_bucket(Bucket="made-later")
    first.save(3, state(3))
    assert len(said) == 1
    assert values(Checkpoints(tmp_path / "second", "run", mirror=uri)) == 3
    assert Checkpoints(tmp_path / "second", "run", mirror=uri).read(2).values == {"log": [2]}


def test_nothing_waits_for_a_slow_server_and_what_it_copies_stays(
    s3: S3Bucket, tmp_path: Path, machines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let, upload = threading.Event(), threading.Event(), storage.upload

    def slowly(source: str | Path, uri: str) -> None:
        begun.set()
        assert let.wait(30)
        upload(source, uri)

    monkeypatch.setattr(storage, "upload", slowly)
    first = machines("first", keep=1)
    first.start(1, state(1))
    assert begun.wait(30)
    for step in (2, 3, 4):
        first.start(step, state(step))
    with first:
        pass  # the end of a training does not wait either
    here = {path.name for path in (tmp_path / "first").iterdir()}
    assert here == {"00000001", "00000004"}
    let.set()
    first.wait()
    assert mirrored(s3) == files(4)
    assert values(machines("second", keep=1)) == 4
