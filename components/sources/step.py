"""Declaration of the step `sources`."""

from __future__ import annotations

from components.core.sources import IngestParams
from components.core.step import Port, Step
from components.core.suite import EvaluateParams

# Written by the flywheel; absent until there is feedback.
FEEDBACK = "data/feedback/current.json"

STEP = Step(
    name="sources",
    summary="List every input and suite file with a digest of its content.",
    sections={"ingest": IngestParams, "evaluate": EvaluateParams},
    inputs=(Port("feedback", "file", FEEDBACK, "Pointer to the version of the feedback.", optional=True),),
    outputs=(
        Port("output", "file", "data/sources.json", "The list: entries, inputs and digests."),
        Port("suite", "file", "data/suite.json", "The files of evaluate.suite with their digests."),
    ),
    run="components.sources.pipeline:run",
    volatile=True,
    hours=1,
)
