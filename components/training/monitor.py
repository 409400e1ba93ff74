"""What a person who watches a training sees: losses, speed, how busy the hardware is, and the time that is left.

Nothing here decides anything: a training that nobody watches has the same bytes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType

import numpy as np
import numpy.typing as npt

from components.core.progress import Progress

Lengths = npt.NDArray[np.int64]
Flops = Callable[[Lengths], float]
"""Floating-point operations that training on texts of these lengths needs, forward and backward."""

_SMOOTH = 0.98  # greatest weight of the past in a task's smoothed loss
_WINDOW = 50  # steps that the speed is taken over

# Dense peaks in 10¹² operations a second from the makers' data sheets: (bf16 and fp16, fp32 without TF32).
# The first name found in the device's name counts.
_PEAKS = {
    "B200": (2250.0, 75.0),
    "GH200": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "H100 PCIe": (756.0, 51.0),
    "H100": (989.0, 67.0),
    "H20": (148.0, 44.0),
    "A100": (312.0, 19.5),
    "A800": (312.0, 19.5),
    "A40": (149.7, 37.4),
    "A30": (165.0, 10.3),
    "A10": (125.0, 31.2),
    "L40S": (362.0, 91.6),
    "L40": (181.0, 90.5),
    "L4": (121.0, 30.3),
    "RTX 5090": (209.5, 104.8),
    "RTX 4090": (165.2, 82.6),
    "RTX 3090": (71.0, 35.6),
    "V100": (125.0, 15.7),
    "T4": (65.0, 8.1),
}


def peak_flops(device: str, half: bool) -> float | None:
    """Operations a second that the device can do at most, None for one that is not known."""
    for name, (low, full) in _PEAKS.items():
        if name in device:
            return (low if half else full) * 1e12
    return None


class Monitor:
    """The progress line of one training on a terminal, nothing elsewhere, and a summary at its end.

    ``with Monitor("finetune", ctx.log) as monitor: train(…)``. ``flops`` and ``peak`` (of all devices together) give
    the model's share of what the hardware could do (MFU). Every step's figures go to ``curves``, if there are any.
    """

    def __init__(
        self,
        label: str = "",
        say: Callable[[str], None] = lambda line: None,
        flops: Flops | None = None,
        peak: float | None = None,
        curves: Callable[[int, Mapping[str, float]], None] = lambda step, figures: None,
    ) -> None:
        self._progress = Progress(label, None, "steps")
        self._say, self._flops, self._peak, self._curves = say, flops, peak, curves
        self._first: dict[str, float] = {}
        self._smooth: dict[str, float] = {}
        self._seen: dict[str, int] = {}
        self._taken = 0
        self._tokens = 0
        self._operations = 0.0
        self._balance = 0.0  # summed over the steps
        self._marks: deque[tuple[float, int, float]] = deque(maxlen=_WINDOW + 1)

    def __enter__(self) -> Monitor:
        self._progress.__enter__()
        return self

    def began(self, done: int, total: int) -> None:
        """Training begins, or goes on after ``done`` of ``total`` steps."""
        self._progress.expect(total, done)
        self._began = time.monotonic()
        self._marks.append((self._began, 0, 0.0))

    def step(self, number: int, losses: Mapping[str, float], length_T: Lengths, figures: Mapping[str, float]) -> None:
        """Show a step that is done: losses by task, tokens of its texts [T], and what else there is to draw."""
        self._taken += 1
        self._tokens += int(length_T.sum())
        self._operations += self._flops(length_T) if self._flops else 0.0
        self._balance += figures.get("balance", 0.0)
        for task, loss in losses.items():
            self._first.setdefault(task, loss)
            seen = self._seen[task] = self._seen.get(task, 0) + 1
            share = max(1 - _SMOOTH, 1 / (1 + seen / 4))  # early on the last quarter counts, not the first step
            self._smooth[task] = (1 - share) * self._smooth.get(task, loss) + share * loss
        self._marks.append((time.monotonic(), self._tokens, self._operations))
        speed = self._speed()
        self._progress.advance()
        self._progress.note(self._line(speed))
        self._curves(number, {**{f"loss/{task}": loss for task, loss in losses.items()}, **figures, **speed})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, error, trace)
        if kind is None and self._taken:
            self._say(self._summary())

    def _speed(self) -> dict[str, float]:
        (before, tokens, operations), (now, *_) = self._marks[0], self._marks[-1]
        return self._rates(now - before, self._tokens - tokens, self._operations - operations)

    def _rates(self, seconds: float, tokens: int, operations: float) -> dict[str, float]:
        seconds = max(seconds, 1e-9)
        rates = {"tokens_per_second": tokens / seconds}
        if self._flops and self._peak:
            rates["mfu_percent"] = 100 * operations / seconds / self._peak
        return rates

    def _line(self, speed: Mapping[str, float]) -> str:
        losses = [f"{task} {loss:.4g}" for task, loss in self._smooth.items()]
        return " · ".join([*losses, *_words(speed)])

    def _summary(self) -> str:
        seconds = time.monotonic() - self._began
        losses = [f"{task} {first:.4g} → {self._smooth[task]:.4g}" for task, first in self._first.items()]
        words = _words(self._rates(seconds, self._tokens, self._operations))
        if self._balance:
            words.append(f"balance of processes {self._balance / self._taken:.3f}")
        speed = ", ".join(words)
        return f"{self._taken:,} steps in {duration(seconds)}, {speed}; loss {', '.join(losses)}"


def _words(speed: Mapping[str, float]) -> list[str]:
    words = [f"{_short(speed['tokens_per_second'])} tokens/s"]
    if "mfu_percent" in speed:
        words.append(f"MFU {speed['mfu_percent']:.0f} %")
    return words


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """A stretch of time in the units that suit it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
