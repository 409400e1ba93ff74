"""Ten thousand shards: what a dataset costs in storage operations, counted, is so many a shard and a few in all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.core import storage
from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.manifest import Dataset
from components.core.records import record_table, rejected_table

SHARDS = 10_000
ROW = {"task": "retri_contrast", "text": "q", "text_pos": "p", "source": "s"}
OUTPUT = ShardOutput(record_table([ROW]), rejected_table([]), {"s": 1})
FEW = 8


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often each storage function is called from outside, and how many files the listings named."""
    calls: Counter[str] = Counter()

    def counting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls[name] += 1
            answer = original(*arguments)
            if name == "list_files":
                calls["listed"] += len(answer)
            return answer

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("read_bytes", "write_bytes", "exists", "remove", "list_files"):
            patch.setattr(storage, name, counting(name, getattr(storage, name)))
        yield calls


def test_planning_resuming_and_committing_cost_a_constant_for_each_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # what a disk takes for it is not what is counted here
    uri = str(tmp_path / "d")
    tasks = [ShardTask(f"{i:05d}", str(i), i) for i in range(SHARDS)]

    def killed(task: ShardTask) -> list[ShardOutput]:
        if task.payload == SHARDS // 2:
            raise KeyboardInterrupt
        return [OUTPUT]

    with pytest.raises(KeyboardInterrupt):
        build_dataset(uri, "test", tasks, killed, "f")
    with counted() as calls:  # goes on: half is verified, half is made
        build_dataset(uri, "test", tasks, lambda task: [OUTPUT], "f")
    assert calls["write_bytes"] <= 3 * SHARDS / 2 + FEW  # records, rejected rows, receipt
    assert calls["read_bytes"] <= 3 * SHARDS / 2 + FEW  # the same of what is kept
    assert calls["exists"] <= SHARDS / 2 + FEW  # a manifest that another run has committed meanwhile
    assert calls["list_files"] <= FEW
    assert calls["listed"] <= 2.5 * SHARDS + FEW
    with counted() as calls:  # nothing to do: every shard is verified, none is written
        dataset = build_dataset(uri, "test", tasks, lambda task: [], "f")
    assert dataset.rows == SHARDS
    assert calls["read_bytes"] <= 2 * SHARDS + FEW
    assert calls["write_bytes"] + calls["exists"] + calls["list_files"] + calls["remove"] <= 2 * FEW
    with counted() as calls:
        Dataset.open(uri)
    assert calls.total() <= 2
