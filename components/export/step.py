"""Declaration of the step `export`."""

from __future__ import annotations

from components.core.step import Port, Resources, Step
from components.core.suite import EvaluateParams
from components.export.params import ExportParams

STEP = Step(
    name="export",
    summary="Write a sentence-transformers folder with its card of scores.",
    sections={"export": ExportParams, "evaluate": EvaluateParams},
    inputs=(
        Port("model", "model", "models/finetune", "Fine-tuned model."),
        Port("heldout", "dataset", "data/heldout", "Records held out for evaluation."),
        Port("suite", "file", "data/suite.json", "Digests of the suite's files: a changed one reruns this step."),
    ),
    outputs=(
        Port("output", "model", "models/export", "Model as a sentence-transformers folder."),
        Port("metrics", "file", "reports/export/metrics.json", "Main metric by task and dimension."),
    ),
    run="components.export.pipeline:run",
    image="train",
    resources=Resources(cpu=2, memory_gib=4),
)
