"""Declaration of the step `sources`."""

from __future__ import annotations

from components.core.sources import IngestParams
from components.core.step import Port, Step

# Written by the flywheel; absent until there is feedback.
FEEDBACK = "data/feedback/current.json"

STEP = Step(
    name="sources",
    summary="List every input of ingest.sources and the feedback so far, with a digest of its content.",
    sections={"ingest": IngestParams},
    inputs=(Port("feedback", "file", FEEDBACK, "Pointer to the version of the feedback.", optional=True),),
    outputs=(Port("output", "file", "data/sources.json", "The list: entries, inputs and digests."),),
    run="components.sources.pipeline:run",
)
