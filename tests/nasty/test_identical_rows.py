"""Many rows that say the same: work grows with the rows, never with their pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.manifest import Dataset
from components.core.records import record_table, rejected_table
from components.core.settings import RunParams
from components.core.step import Context
from components.core.suite import EvaluateParams, SuiteParams
from components.filter import duplicates
from components.filter.params import FilterParams
from components.filter.pipeline import run

PASSAGE = (
    "Open the file by its name and read all of its lines into a list; the file is closed when the last line is read, "
    "and an error is raised if it is not text. Case number "
)


def filter_tables(folder: Path, tables: list[pa.Table]) -> Dataset:
    """Filter a dataset with these tables as its shards."""

    def rows(task: ShardTask) -> list[ShardOutput]:
        return [ShardOutput(task.payload, rejected_table([]), {"same": len(task.payload)})]

    tasks = [ShardTask(f"{number:05d}", "", table) for number, table in enumerate(tables)]
    build_dataset(str(folder / "ingest"), "ingest", tasks, rows, "test")
    evaluate = EvaluateParams(suite=(SuiteParams(name="none", type="heldout"),))
    params = FilterParams.model_validate({"contamination": {"exact": False, "near": None}})
    inputs = {"ingest": str(folder / "ingest"), "heldout": str(folder / "none")}
    outputs = {"output": str(folder / "out"), "funnel": str(folder / "funnel.csv")}
    run(Context("filter", RunParams(workers=1), {"filter": params, "evaluate": evaluate}, inputs, outputs))
    return Dataset.open(outputs["output"])


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Counts band records that are compared, and pairs of rows that are verified."""
    counts = {"records": 0, "pairs": 0}
    candidates: Callable[..., Any] = duplicates.candidates
    verified: Callable[..., Any] = duplicates.verified

    def count_candidates(hashes: Any, ranks: Any, rows: Any) -> Any:
        counts["records"] += len(hashes)
        return candidates(hashes, ranks, rows)

    def count_verified(keys: Any, *rest: Any) -> Any:
        counts["pairs"] += len(keys)
        return verified(keys, *rest)

    monkeypatch.setattr(duplicates, "candidates", count_candidates)
    monkeypatch.setattr(duplicates, "verified", count_verified)
    return counts


def test_of_a_million_identical_rows_one_is_left_and_no_two_are_compared(tmp_path: Path, work: dict[str, int]) -> None:
    row = {"task": "retri_contrast", "text": "read a file", "text_pos": PASSAGE.strip(), "source": "same"}
    shard = record_table([row]).take(np.zeros(100_000, np.int64))
    result = filter_tables(tmp_path, [shard] * 10)
    assert result.rows == 1
    assert result.ledger.rows_in == {"same": 1_000_000}
    assert result.ledger.dropped == {"same": {"exact_duplicate": 999_999}}
    assert work == {"records": 25, "pairs": 0}  # the bands of one row


def test_a_bucket_of_many_near_identical_rows_takes_work_in_proportion(tmp_path: Path, work: dict[str, int]) -> None:
    count = 20_000
    rows = [
        {"task": "retri_contrast", "text": "read a file", "text_pos": f"{PASSAGE}{number:05d}", "source": "same"}
        for number in range(count)
    ]
    result = filter_tables(tmp_path, [record_table(rows[start : start + 5000]) for start in range(0, count, 5000)])
    assert result.rows == 1
    assert result.ledger.dropped == {"same": {"near_duplicate": count - 1}}
    assert work["records"] == 25 * count
    assert work["pairs"] <= 2 * 25 * 5 * count  # each side, band, and row: the first of the bucket and four more
