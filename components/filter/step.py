"""Declaration of the step `filter`."""

from __future__ import annotations

from components.core.step import Port, Resources, Step
from components.core.suite import EvaluateParams
from components.filter.params import FilterParams

STEP = Step(
    name="filter",
    summary="Drop rows by rules, language, duplicates and evaluation texts.",
    sections={"filter": FilterParams, "evaluate": EvaluateParams},
    inputs=(
        Port("ingest", "dataset", "data/ingest", "Ingested records."),
        Port("heldout", "dataset", "data/heldout", "Records held out for evaluation, which training must not see."),
        Port("suite", "file", "data/suite.json", "Digests of the suite's files: a changed one reruns this step."),
    ),
    outputs=(
        Port("output", "dataset", "data/filter", "Records that passed every stage."),
        Port("funnel", "file", "reports/filter/funnel.csv", "Rows left after each stage, and why others went."),
    ),
    run="components.filter.pipeline:run",
    stages=("judge", "exact", "near", "write"),
    resources=Resources(cpu=2, memory_gib=4),
)
