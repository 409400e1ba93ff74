"""Declaration of the step `finetune`."""

from __future__ import annotations

from components.core.step import Port, Resources, Step
from components.finetune.params import FinetuneParams
from components.training.settings import CHECKPOINTS

STEP = Step(
    name="finetune",
    summary="Train retrieval, similarity and classes with mined negatives.",
    sections={"finetune": FinetuneParams},
    inputs=(
        Port("input", "dataset", "data/score", "Scored records."),
        Port("model", "model", "models/pretrain", "Pretrained model."),
    ),
    outputs=(
        Port("output", "model", "models/finetune", "Model as a sentence-transformers folder."),
        Port("loss", "file", "reports/finetune/loss.csv", "Loss of every step."),
        Port("negatives", "file", "reports/finetune/negatives.csv", "Scores and replacements of mined negatives."),
        Port("dev", "file", "reports/finetune/dev.csv", "Measurements on the dev set while training."),
        Port("metrics", "file", "reports/finetune/metrics.json", "Rows, steps, losses by task.", shows="metrics"),
        CHECKPOINTS,
    ),
    run="components.finetune.pipeline:run",
    image="train",
    resources=Resources(cpu=2, memory_gib=8),
    parallel=True,
    hours=240,
    forecast="components.finetune.forecast:run",
)
