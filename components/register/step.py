"""Declaration of the step `register`."""

from __future__ import annotations

from components.core.step import Port, Resources, Step
from components.register.params import RegisterParams

STEP = Step(
    name="register",
    summary="Record the run in MLflow; promote the model if it passes the gate.",
    sections={"register": RegisterParams},
    inputs=(
        Port("model", "model", "models/export", "The model to register."),
        Port("metrics", "file", "reports/evaluate/metrics.json", "The score and the digest of the suite."),
        Port("quality", "file", "reports/evaluate/quality.csv", "Every measured value, for the gate."),
        Port("ingest", "dataset", "data/ingest", "Ingested records, for their ledger."),
        Port("heldout", "dataset", "data/heldout", "Records held out for evaluation: part of the data version."),
        Port("filter", "dataset", "data/filter", "Filtered records, for their ledger."),
        Port("score", "dataset", "data/score", "What the model was trained on: the data version."),
        Port("pretrain_metrics", "file", "reports/pretrain/metrics.json", "Metrics of pretraining."),
        Port("pretrain_loss", "file", "reports/pretrain/loss.csv", "Losses of pretraining."),
        Port("finetune_metrics", "file", "reports/finetune/metrics.json", "Metrics of fine-tuning."),
        Port("finetune_loss", "file", "reports/finetune/loss.csv", "Losses of fine-tuning."),
        Port("export_metrics", "file", "reports/export/metrics.json", "Size of the exported model."),
    ),
    outputs=(Port("version", "file", "reports/register/version.json", "The version, its gate, and the champion."),),
    run="components.register.pipeline:run",
    image="train",
    volatile=True,
    hours=1,
    resources=Resources(cpu=1, memory_gib=2),
)
