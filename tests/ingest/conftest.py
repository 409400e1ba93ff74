from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from components.core.manifest import Dataset
from components.core.settings import RunParams, parse_section
from components.core.sources import IngestParams
from components.core.step import Context
from components.core.suite import EvaluateParams
from components.ingest import pipeline as ingest_pipeline
from components.sources import pipeline as sources_pipeline
from tests.fixtures.installed import site

__all__ = ["site"]

Ingest = Callable[..., tuple[Dataset, Dataset]]


@pytest.fixture
def ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ingest:
    """Runs the steps sources and ingest in `tmp_path` on the given entries; returns training and held-out data."""
    monkeypatch.chdir(tmp_path)

    def run(*entries: dict[str, Any], workers: int = 1, **params: Any) -> tuple[Dataset, Dataset]:
        section = parse_section("ingest", IngestParams, {"sources": list(entries), **params}, "params.yaml")
        settings, sections = RunParams(workers=workers), {"ingest": section, "evaluate": EvaluateParams()}
        output = "data/sources.json"
        listed = {"output": output, "suite": "data/suite.json"}
        sources_pipeline.run(Context("sources", settings, sections, {}, listed))
        outputs = {"output": "data/ingest", "heldout": "data/heldout"}
        ingest_pipeline.run(Context("ingest", settings, sections, {"sources": output}, outputs))
        return Dataset.open("data/ingest"), Dataset.open("data/heldout")

    return run


def json_lines(rows: Iterable[Any]) -> bytes:
    """Rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
