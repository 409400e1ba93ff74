"""A teacher that answers some texts with NaN, null or zeros: those rows are a reason in the ledger, never kept."""

from __future__ import annotations

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.manifest import Dataset
from components.core.records import REJECTED_SCHEMA, record_table
from components.core.settings import RunParams
from components.core.step import Context
from components.core.teacher import ScoreParams
from components.score.pipeline import run
from tests.fixtures.embedding_server import DIMS, KEY, embedding_server, vector_of

BROKEN: dict[str, Any] = {"nan": [math.nan] * DIMS, "one nan": [math.nan] + [0.1] * (DIMS - 1), "null": None}
BROKEN |= {"zeros": [0.0] * DIMS, "infinite": [math.inf] + [0.0] * (DIMS - 1)}
TASKS = ("retri_contrast", "cosent", "cls_contrast")


def test_nan_scores_are_dropped_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    rows: list[dict[str, Any]] = []
    for task in TASKS:
        other = "text_pair" if task == "cosent" else "text_pos"
        pairs = [("fine", "fine too"), *((text, "fine") for text in BROKEN), *(("fine", text) for text in BROKEN)]
        rows += [{"task": task, "text": a, other: b, "lang": "en", "source": f"s.{task}"} for a, b in pairs]
    table = record_table(rows)
    sources = Counter(table["source"].to_pylist())
    output = ShardOutput(table, REJECTED_SCHEMA.empty_table(), sources, {"lang.en": len(rows)})
    build_dataset("in", "filter", [ShardTask("00000", "", None)], lambda task: [output], "f")
    with embedding_server() as server:
        server.alter = lambda text, vector: BROKEN.get(text, vector)
        params = ScoreParams(teachers={"en": server.spec}, thresholds={server.spec: -1.0})
        outputs = {"output": "out", "histogram": "histogram.csv"}
        run(Context("score", RunParams(workers=2), {"score": params}, {"filter": "in"}, outputs))
    dataset = Dataset.open("out")
    kept = dataset.read()
    assert kept["task"].to_pylist() == list(TASKS)
    cosine = sum(a * b for a, b in zip(vector_of("fine"), vector_of("fine too"), strict=True))
    assert kept["score"].to_pylist() == [pytest.approx(cosine, abs=1e-5)] * len(TASKS)
    rejected = dataset.read_rejected()
    assert pc.unique(rejected["reason"]).to_pylist() == ["no_vector"]
    assert dataset.ledger.as_dict()["dropped"] == {f"s.{task}": {"no_vector": 2 * len(BROKEN)} for task in TASKS}
    with Path("histogram.csv").open(newline="") as file:
        assert sum(int(each["rows"]) for each in csv.DictReader(file)) == len(TASKS)
