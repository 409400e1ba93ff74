from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.manifest import Dataset
from components.core.records import record_table, rejected_table
from components.core.settings import RunParams
from components.core.step import Context
from components.core.suite import EvaluateParams, SuiteParams
from components.filter.params import FilterParams
from components.filter.pipeline import run

Rows = Sequence[dict[str, Any]]
MakeDataset = Callable[..., Dataset]


def _as_they_are(task: ShardTask) -> list[ShardOutput]:
    counts = Counter(row["source"] for row in task.payload)
    return [ShardOutput(record_table(task.payload), rejected_table([]), counts)]


@pytest.fixture
def make_dataset() -> MakeDataset:
    """Writes a dataset of rows, in shards of `per_shard`."""

    def make(uri: Path, rows: Rows, per_shard: int = 1000) -> Dataset:
        tasks = [
            ShardTask(f"{index:05d}", repr(rows[start : start + per_shard]), rows[start : start + per_shard])
            for index, start in enumerate(range(0, len(rows), per_shard))
        ]
        return build_dataset(str(uri), "ingest", tasks, _as_they_are, "test")

    return make


@pytest.fixture
def filtered(tmp_path: Path, make_dataset: MakeDataset) -> Callable[..., Dataset]:
    """Filter rows, optionally against held-out rows, and open the result; reports are beside it."""

    def filter_rows(
        rows: Rows,
        heldout: Rows = (),
        per_shard: int = 1000,
        workers: int = 1,
        out: str = "out",
        uri: str | None = None,
        **params: Any,
    ) -> Dataset:
        make_dataset(tmp_path / "ingest", rows, per_shard)
        make_dataset(tmp_path / "heldout", heldout)
        suite = (SuiteParams(name="heldout", type="heldout"),)
        if not heldout:
            params.setdefault("contamination", {"exact": False, "near": None})
        context = Context(
            "filter",
            RunParams(workers=workers),
            {"filter": FilterParams.model_validate(params), "evaluate": EvaluateParams(suite=suite)},
            {"ingest": str(tmp_path / "ingest"), "heldout": str(tmp_path / "heldout")},
            {
                "output": uri or str(tmp_path / out),
                "funnel": str(tmp_path / f"{out}.funnel.csv"),
            },
        )
        run(context)
        return Dataset.open(uri or str(tmp_path / out))

    return filter_rows
