"""Declaration of the step `report`."""

from __future__ import annotations

from components.core.step import Port, Resources, Step

STEP = Step(
    name="report",
    summary="Draw the run as one self-contained HTML page.",
    sections={},
    inputs=(
        Port("ingest", "dataset", "data/ingest", "Ingested records, for their ledger."),
        Port("heldout", "dataset", "data/heldout", "Records held out for evaluation, for their number."),
        Port("filter", "dataset", "data/filter", "Filtered records, for their ledger."),
        Port("score", "dataset", "data/score", "Scored records, for their ledger."),
        Port("histogram", "file", "reports/score/histogram.csv", "Scores of the teachers."),
        Port("pretrain_loss", "file", "reports/pretrain/loss.csv", "Losses of pretraining."),
        Port("finetune_loss", "file", "reports/finetune/loss.csv", "Losses of fine-tuning."),
        Port("pretrain_dev", "file", "reports/pretrain/dev.csv", "Measurements on the dev set while pretraining."),
        Port("finetune_dev", "file", "reports/finetune/dev.csv", "Measurements on the dev set while fine-tuning."),
        Port("negatives", "file", "reports/finetune/negatives.csv", "Scores of mined negatives, and replacements."),
        Port("quality", "file", "reports/evaluate/quality.csv", "Every measured value."),
        Port("examples", "file", "reports/evaluate/examples.json", "Hits and misses."),
        Port("version", "file", "reports/register/version.json", "The registered version and its gate."),
    ),
    outputs=(
        Port("page", "file", "reports/report.html", "The page.", shows="page"),
        Port("picture", "file", "docs/result.svg", "Score by dimension as a picture, for a README.", optional=True),
    ),
    run="components.report.pipeline:run",
    volatile=True,
    hours=1,
    resources=Resources(cpu=1, memory_gib=1),
)
