"""How a teacher's cosines of true pairs and of shuffled pairs lie, and the cut between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Thresholds are tried in steps of 0.01; histograms have bins of 0.05.
STEPS = 100
BINS = 20

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Cut:
    """A threshold, and the share of true and of shuffled pairs at or above it."""

    threshold: float
    kept_true: float
    kept_shuffled: float


@dataclass(frozen=True)
class Calibration:
    """Finite cosines of true pairs [N] and of shuffled pairs [M] under one teacher; `blank` pairs had no vector."""

    teacher: str
    languages: tuple[str, ...]
    true: Scores
    shuffled: Scores
    blank: int

    def cut(self, threshold: float) -> Cut:
        """What a threshold keeps."""
        kept = (float((scores >= np.float32(threshold)).mean()) for scores in (self.true, self.shuffled))
        return Cut(threshold, *kept)

    def cuts(self) -> list[Cut]:
        """What each threshold from -1 to 1 keeps."""
        return [self.cut(step / STEPS) for step in range(-STEPS, STEPS + 1)]

    def proposed(self, keep: float) -> Cut:
        """The highest threshold that keeps at least the share `keep` of true pairs: it drops the most shuffled ones."""
        return max((cut for cut in self.cuts() if cut.kept_true >= keep), key=lambda cut: cut.threshold)

    def best_informed(self) -> Cut:
        """The threshold with the largest J = kept true - kept shuffled (Youden 1950); of equal ones the lowest."""
        return max(self.cuts(), key=lambda cut: (cut.kept_true - cut.kept_shuffled, -cut.threshold))

    def separation(self) -> float:
        """Probability that a true pair scores above a shuffled one, ties half: the area under the ROC curve."""
        order = np.sort(self.shuffled)
        below = np.searchsorted(order, self.true, "left") + np.searchsorted(order, self.true, "right")
        return float(below.mean() / (2 * len(order)))

    def bins(self) -> Iterator[tuple[float, float, float]]:
        """Lower edge of each bin, share of true and share of shuffled pairs in it, from the first filled bin on."""
        edges = (np.arange(-BINS, BINS + 1) / BINS).astype(np.float32)
        inside = (np.clip(scores, -1, np.nextafter(np.float32(1), 0)) for scores in (self.true, self.shuffled))
        shares = [np.histogram(scores, edges)[0] / len(scores) for scores in inside]
        filled = np.flatnonzero(shares[0] + shares[1])
        for index in range(int(filled[0]), int(filled[-1]) + 1):
            yield float(edges[index]), float(shares[0][index]), float(shares[1][index])
