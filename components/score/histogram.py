"""Pairs by score: one histogram for each teacher and task, over all pairs that came in."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.teacher import ScoreParams

# The only task whose pairs a threshold applies to.
THRESHOLDED = "retri_contrast"
# Bins a unit of cosine; thresholds in steps of 0.025 fall on an edge.
BINS = 40
# Counts of count_bins by teacher and task.
Counts = dict[tuple[str, str], NDArray[np.int64]]
COLUMNS = ("teacher", "task", "low", "high", "rows", "threshold")


def count_bins(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Number of scores [N] in each bin from -1 to 1; a cosine that rounding took past either end counts there."""
    bins = np.floor(scores.astype(np.float64) * BINS).astype(np.int64) + BINS
    return np.bincount(bins.clip(0, 2 * BINS - 1), minlength=2 * BINS)


def histogram_csv(counts: Counts, params: ScoreParams) -> bytes:
    """The histograms as CSV, by teacher and task, from the first bin that holds a pair to the last.

    Retrieval pairs stand under the teacher's name with its threshold; other tasks, which no threshold applies to,
    under the teacher's name and their own.
    """
    lines = io.StringIO(newline="")
    writer: Any = csv.writer(lines, lineterminator="\n")
    writer.writerow(COLUMNS)
    for (teacher, task), bins in sorted(counts.items()):
        filled = np.flatnonzero(bins)
        thresholded = task == THRESHOLDED
        label = teacher if thresholded else f"{teacher} ({task})"
        threshold = params.thresholds.get(teacher, "") if thresholded else ""
        for index in range(int(filled[0]), int(filled[-1]) + 1):
            low, high = (index - BINS) / BINS, (index - BINS + 1) / BINS
            writer.writerow((label, task, f"{low:.3f}", f"{high:.3f}", int(bins[index]), threshold))
    return lines.getvalue().encode()
