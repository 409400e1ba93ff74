"""How many pods share the next step's work: a list of parts for the pipeline's loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.core.manifest import Dataset
from components.core.part import part_names
from components.core.sources import IngestParams, expected_tasks, read_sources
from components.core.step import Step


def next_parts(step: Step, made: Mapping[str, str], sections: Mapping[str, Any], limit: int) -> list[str]:
    """The parts "1/N", …, "N/N" of the step after this one: one a shard that it reads, `limit` at most."""
    if step.name == "sources":
        shard_bytes = IngestParams.model_validate(sections.get("ingest") or {}).shard_bytes
        return part_names(expected_tasks(read_sources(made["output"]), shard_bytes), limit)
    return part_names(len(Dataset.open(made["output"]).shards), limit)
