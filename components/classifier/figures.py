"""How well a classifier does: precision and recall by threshold, average precision, and a threshold to use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 50, 99  # hundredths; below one half a text is more likely something else
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Point:
    """Figures at one threshold: `wrong` is the share of the other texts whose score reaches it.

    `wrong` does not depend on how many positives there are among the texts; precision does.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    wrong: float


def point(scores: NDArray[np.float32], positive: NDArray[np.bool_], threshold: float) -> Point:
    """Figures of scores [N] at `threshold`; precision is 1 where nothing reaches it."""
    taken = scores >= threshold
    right = int((taken & positive).sum())
    precision = right / taken.sum() if taken.any() else 1.0
    recall = right / positive.sum()
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return Point(threshold, *(round(float(value), 4) for value in (precision, recall, f1, taken[~positive].mean())))


def average_precision(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Area under the precision–recall curve as a step function (scikit-learn's definition)."""
    from sklearn.metrics import average_precision_score

    return round(float(average_precision_score(positive, scores)), 4)


def curve(scores: NDArray[np.float32], positive: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """(recall, precision) at every threshold from strict to lax, thinned to whole percents of recall."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(positive[order])
    ends = np.flatnonzero(np.diff(scores[order], append=-1.0))
    recall, precision = right[ends] / positive.sum(), right[ends] / (ends + 1)
    _, first = np.unique(np.floor(recall * 100), return_index=True)
    return [(round(float(recall[i]), 4), round(float(precision[i]), 4)) for i in first]


def choose_threshold(scores: NDArray[np.float32], positive: NDArray[np.bool_], precision: float) -> float | None:
    """The lowest threshold from one half on, in hundredths, above which precision stays at `precision` or more.

    None if there is none.
    """
    chosen = None
    for threshold in np.arange(HIGHEST, LOWEST - 1, -1) / 100:
        taken = scores >= threshold
        if taken.any() and (positive & taken).sum() / taken.sum() < precision:
            break
        if (positive & taken).any():
            chosen = float(threshold)
    return chosen
