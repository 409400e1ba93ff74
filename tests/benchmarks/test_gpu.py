"""The GPU benchmark on a machine without one: it says so, and its parts run on small sizes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from benchmarks import gpu
from benchmarks.measure import README, RESULTS


def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_every_part_runs_on_small_sizes_and_keeps_nothing() -> None:
    before = README.read_bytes(), (RESULTS / "gpu.json").exists()
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny"]
    done = subprocess.run(command, cwd=README.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for word in ("MFU", "Static training", "Matryoshka loss", "`python benchmarks/gpu.py`"):
        assert word in done.stdout
    assert (README.read_bytes(), (RESULTS / "gpu.json").exists()) == before
    assert "<!-- gpu -->" in before[0].decode()


def test_a_batch_that_does_not_fit_gives_way_to_a_smaller_one() -> None:
    sizes = gpu.Sizes({}, (4, 2, 1), gpu.TINY.static, 1, (1,), 1)

    def make(pairs: int) -> object:
        if pairs > 1:
            raise torch.OutOfMemoryError
        return lambda: None

    assert gpu.largest(make, "cpu", sizes)["pairs"] == 1

    def broken(pairs: int) -> object:
        raise ImportError(f"flash_attn is not installed, {pairs} pairs\nmore")

    assert gpu.largest(broken, "cpu", sizes) == {"why": "flash_attn is not installed, 4 pairs"}
