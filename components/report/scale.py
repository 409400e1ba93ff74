"""Axis scales: data to a share of the axis in [0, 1], and round tick values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Air between the data and the ends of an axis, as a share of their span.
PAD = 0.08


@dataclass(frozen=True)
class Scale:
    """Maps `low..high` to 0..1, linearly or by logarithm; `ticks` are (value, label) pairs.

    `inset` keeps that share of the axis free at both ends, for marks that carry labels.
    """

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    inset: float = 0.0

    def share(self, value: float) -> float:
        """Where the value lies on the axis; the middle where the axis has no length."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        if high == low:
            return 0.5
        inner = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.inset + inner * (1 - 2 * self.inset)


def round_step(span: float, count: int) -> float:
    """The smallest step of 1, 2, 2.5 or 5 times a power of ten that needs at most `count` steps for the span."""
    rough = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1.0, 2.0, 2.5, 5.0, 10.0):
        if factor * power >= rough * (1 - 1e-9):
            return factor * power
    return 10.0 * power


def tick_values(low: float, high: float, count: int) -> list[float]:
    """Multiples of a round step inside `low..high`."""
    step = round_step(high - low, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def decimals_of(step: float) -> int:
    """How many decimals multiples of this step need."""
    for decimals in range(12):
        if abs(round(step, decimals) - step) < step * 1e-6:
            return decimals
    return 12


def tick_label(value: float, decimals: int) -> str:
    """A tick's value with these decimals and a real minus sign; zero has no sign."""
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", "\u2212")


def linear_scale(values: Sequence[float], count: int = 7) -> Scale:
    """A linear scale over the data with a little air at both ends; ticks are the round values on it."""
    low, high = min(values), max(values)
    pad = PAD * (high - low)
    if pad < 1e-12 * max(abs(low), abs(high), 1.0):
        pad = abs(high) * PAD or 1.0
    return fixed_scale(low - pad, high + pad, count)


def count_scale(most: float, count: int = 4) -> Scale:
    """A linear scale for counts: from zero to the round value above the largest."""
    step = max(round_step(most, count), 1.0) if most > 0 else 1.0
    last = max(math.ceil(most / step - 1e-9), 1)
    return Scale(0.0, last * step, tuple((index * step, f"{index * step:,.0f}") for index in range(last + 1)))


def fixed_scale(low: float, high: float, count: int = 5) -> Scale:
    """A linear scale with exactly these ends; the ticks are the round values between them."""
    if high <= low:
        high = low + 1.0
    decimals = decimals_of(round_step(high - low, count))
    return Scale(low, high, tuple((value, tick_label(value, decimals)) for value in tick_values(low, high, count)))


def log_scale(marks: Sequence[tuple[float, str]], gap: float = 0.14, inset: float = 0.06) -> Scale:
    """A logarithmic scale over positive (value, label) marks.

    Marks are the candidates for ticks; from the largest down, one that lies nearer than `gap` (share of the axis) to
    the tick before it gets none, so that labels do not run into each other.
    """
    low, high = min(value for value, _ in marks), max(value for value, _ in marks)
    if low == high:
        return Scale(low / 2, high * 2, (marks[0],), log=True)
    bare = Scale(low, high, (), log=True, inset=inset)
    kept: list[tuple[float, str]] = []
    for value, label in sorted(marks, reverse=True):
        if not kept or bare.share(kept[-1][0]) - bare.share(value) >= gap:
            kept.append((value, label))
    return Scale(low, high, tuple(reversed(kept)), log=True, inset=inset)
