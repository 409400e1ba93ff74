"""Declaration of the step `score`."""

from __future__ import annotations

from components.core.step import Port, Resources, Step
from components.core.teacher import ScoreParams

STEP = Step(
    name="score",
    summary="Score every pair with a teacher and drop clear mismatches.",
    sections={"score": ScoreParams},
    inputs=(Port("filter", "dataset", "data/filter", "Filtered records."),),
    outputs=(
        Port("output", "dataset", "data/score", "Records with their score."),
        Port("histogram", "file", "reports/score/histogram.csv", "Pairs by score, for each teacher and task."),
    ),
    run="components.score.pipeline:run",
    stages=("shards",),
    image="train",
    resources=Resources(cpu=2, memory_gib=4),
)
