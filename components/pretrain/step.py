"""Declaration of the step `pretrain`."""

from __future__ import annotations

from components.core.step import Port, Resources, Step
from components.pretrain.params import PretrainParams
from components.training.settings import CHECKPOINTS

STEP = Step(
    name="pretrain",
    summary="Start a model, distil a teacher, contrast the pairs.",
    sections={"pretrain": PretrainParams},
    inputs=(Port("input", "dataset", "data/score", "Scored records."),),
    outputs=(
        Port("output", "model", "models/pretrain", "Model as a sentence-transformers folder."),
        Port("loss", "file", "reports/pretrain/loss.csv", "Loss of every step."),
        Port("dev", "file", "reports/pretrain/dev.csv", "Measurements on the dev set while training."),
        Port("metrics", "file", "reports/pretrain/metrics.json", "Rows, vocabulary, steps, losses.", shows="metrics"),
        CHECKPOINTS,
    ),
    run="components.pretrain.pipeline:run",
    image="train",
    resources=Resources(cpu=2, memory_gib=8),
    parallel=True,
    hours=240,
    forecast="components.pretrain.forecast:run",
)
