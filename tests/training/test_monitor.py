"""What a person sees of a training: speed, smoothed losses, and one line at its end."""

from __future__ import annotations

import time

import numpy as np
import pytest

from components.training.monitor import Monitor, peak_flops


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_speed_and_share_of_the_peak_are_those_of_the_last_steps(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, said = [], []
    curves = lambda step, figures: drawn.append((step, figures))  # noqa: E731
    with Monitor("train", said.append, lambda lengths: 100.0 * lengths.sum(), 1e5, curves) as monitor:
        monitor.began(0, 200)
        for step in range(100):
            clock[0] += 10.0 if step == 0 else 0.5  # the first step compiles and warms up
            monitor.step(step, {"a": 4.0 - step / 100}, np.array([30, 70]), {"lr": 0.1})
    step, figures = drawn[-1]
    assert (step, figures["lr"], figures["loss/a"]) == (99, 0.1, pytest.approx(3.01))
    assert figures["tokens_per_second"] == pytest.approx(200)
    assert figures["mfu_percent"] == pytest.approx(20.0)
    assert said == ["100 steps in 1 min 0 s, 168 tokens/s, MFU 17 %; loss a 4 → 3.21"]
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_a_run_that_goes_on_counts_its_own_steps(clock: list[float]) -> None:
    said: list[str] = []
    with Monitor("train", said.append) as monitor:
        monitor.began(50, 60)
        clock[0] += 2
        monitor.step(50, {"a": 1.0}, np.array([1_000_000]), {})
    assert said == ["1 steps in 2.0 s, 500 k tokens/s; loss a 1 → 1"]


def test_a_failed_run_sums_nothing_up(clock: list[float]) -> None:
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), Monitor("train", said.append) as monitor:
        monitor.began(0, 2)
        monitor.step(0, {"a": 1.0}, np.array([1]), {})
        raise KeyboardInterrupt
    assert said == []


def test_peaks_are_known_by_the_name_of_the_device() -> None:
    assert peak_flops("NVIDIA H200", half=True) == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", half=False) == 19.5e12
    assert peak_flops("NVIDIA H100 PCIe", half=True) == 756e12
    assert peak_flops("Some new device", half=True) is None
