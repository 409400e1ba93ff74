"""Declaration of the step `ingest`."""

from __future__ import annotations

from components.core.sources import IngestParams
from components.core.step import Port, Resources, Step

STEP = Step(
    name="ingest",
    summary="Turn sources into records; hold whole groups out for evaluation.",
    sections={"ingest": IngestParams},
    inputs=(Port("sources", "file", "data/sources.json", "The list of inputs that the step sources made."),),
    outputs=(
        Port("output", "dataset", "data/ingest", "Records to train on."),
        Port("heldout", "dataset", "data/heldout", "Records held out for evaluation; may be empty."),
    ),
    run="components.ingest.pipeline:run",
    stages=("shards",),
    resources=Resources(cpu=2, memory_gib=4),
)
