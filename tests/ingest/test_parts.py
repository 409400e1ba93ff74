"""Pods that share the work of ingest leave nothing for the step but to commit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.core.part import Part
from components.core.settings import RunParams, parse_section
from components.core.sources import IngestParams
from components.core.step import Context
from components.core.storage import write_bytes
from components.ingest import pipeline
from tests.conftest import Embedmill
from tests.ingest.conftest import Ingest, json_lines
from tests.ingest.test_pipeline import PAIRS, bytes_of

ENTRY = {"uri": "rows", "holdout": 0.3}
SHARD_BYTES = 256


def write_rows(folder: Path) -> None:
    for number in range(3):
        write_bytes(str(folder / f"rows/{number}.jsonl"), json_lines([*PAIRS[number::3], ["no row"]]))


@pytest.mark.parametrize("order", [[1], [2, 1], [3, 1, 2], [5, 1, 4], [2]])
def test_parts_give_the_bytes_of_the_step_alone(
    order: list[int], ingest: Ingest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path)
    ingest(ENTRY, shard_bytes=SHARD_BYTES)
    alone = bytes_of(tmp_path / "data")
    for folder in ("ingest", "heldout"):
        shutil.rmtree(tmp_path / "data" / folder)
    section = parse_section("ingest", IngestParams, {"sources": [ENTRY], "shard_bytes": SHARD_BYTES}, "params.yaml")
    outputs = {"output": "data/ingest", "heldout": "data/heldout"}
    for number in order:
        part = Part("shards", number, max(order))
        inputs = {"sources": "data/sources.json"}
        pipeline.run(Context("ingest", RunParams(), {"ingest": section}, inputs, outputs, part=part))
    assert not list((tmp_path / "data").rglob("manifest.json"))
    made = {path.name: path.stat().st_ino for path in (tmp_path / "data/ingest/shards").iterdir()}
    assert made
    ingest(ENTRY, shard_bytes=SHARD_BYTES)
    assert bytes_of(tmp_path / "data") == alone
    shards = {path.name: path.stat().st_ino for path in (tmp_path / "data/ingest/shards").iterdir()}
    assert {name: shards[name] for name in made} == made, "the step has made a shard again"
    assert (made == shards) == (set(order) == set(range(1, max(order) + 1)))


def test_the_command_line_runs_a_part(embedmill: Embedmill, tmp_path: Path) -> None:
    write_rows(tmp_path)
    given = ("--section", "ingest", '{"sources": [{"uri": "rows", "holdout": 0.3}], "shard_bytes": 256}')
    assert embedmill("sources", *given).returncode == 0
    for name in ("2/2", "1/2"):
        result = embedmill("ingest", *given, "--stage", "shards", "--part", name)
        assert result.returncode == 0, result.stderr
        assert not (tmp_path / "data/ingest/manifest.json").exists()
    assert embedmill("ingest", *given).returncode == 0
    assert (tmp_path / "data/ingest/manifest.json").exists()
