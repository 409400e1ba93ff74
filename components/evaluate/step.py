"""Declaration of the step `evaluate`."""

from __future__ import annotations

from components.core.step import Port, Resources, Step
from components.core.suite import EvaluateParams
from components.core.teacher import ScoreParams

STEP = Step(
    name="evaluate",
    summary="Measure the model at every dimension beside its baselines.",
    sections={"evaluate": EvaluateParams, "score": ScoreParams},
    inputs=(
        Port("model", "model", "models/export", "The model to measure."),
        Port("pretrained", "model", "models/pretrain", "The same model before fine-tuning."),
        Port("heldout", "dataset", "data/heldout", "Records held out for evaluation."),
        Port("suite", "file", "data/suite.json", "Digests of the suite's files: a changed one reruns this step."),
    ),
    outputs=(
        Port(
            "headline",
            "file",
            "reports/evaluate/headline.json",
            "The model's main metric by task: what DVC shows.",
            shows="metrics",
        ),
        Port("metrics", "file", "reports/evaluate/metrics.json", "Headline score, main metric of every system."),
        Port("quality", "file", "reports/evaluate/quality.csv", "Every measured value."),
        Port("examples", "file", "reports/evaluate/examples.json", "Hits and misses of the model."),
    ),
    run="components.evaluate.pipeline:run",
    image="train",
    resources=Resources(cpu=2, memory_gib=4),
)
