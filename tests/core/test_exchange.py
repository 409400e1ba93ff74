from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from components.core import s3 as s3_module
from components.core import storage
from components.core.errors import InputError
from components.core.exchange import read_partition, write_exchange
from tests.fixtures.seaweed import S3Bucket

SCHEMA = pa.schema([("number", pa.uint64()), ("text", pa.large_string())])


def rows(count: int, first: int = 0) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table([pa.array(numbers, pa.uint64()), pa.array([f"row {n}" for n in numbers])], schema=SCHEMA)


@pytest.mark.parametrize("partitions", [1, 2, 7])
@pytest.mark.parametrize("round_bytes", [1, 2000, 1 << 20])
def test_a_partition_holds_its_rows_of_every_file_in_order(tmp_path: Path, partitions: int, round_bytes: int) -> None:
    choose = random.Random(partitions)
    expected: list[list[int]] = [[] for _ in range(partitions)]
    uris = []
    first = 0
    for name in range(4):
        uris.append(str(tmp_path / f"{name}"))
        with write_exchange(uris[-1], SCHEMA, partitions, round_bytes) as rounds:
            for _ in range(name):  # the first file has no rows at all
                count = choose.randrange(60)
                partition = np.array([choose.randrange(partitions) for _ in range(count)], np.int64)
                rounds.add(rows(count, first), partition)
                for number, place in zip(range(first, first + count), partition.tolist(), strict=True):
                    expected[place].append(number)
                first += count
    for partition, numbers in enumerate(expected):
        table = read_partition(uris, partition, SCHEMA)
        assert table.schema == SCHEMA
        assert table["number"].to_pylist() == numbers
        assert table["text"].to_pylist() == [f"row {number}" for number in numbers]


def test_a_reader_fetches_little_more_than_its_partition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "file")
    with write_exchange(uri, SCHEMA, 50, 1 << 30) as rounds:
        rounds.add(rows(50_000), np.arange(50_000) % 50)
    read = 0

    class Counting:
        closed = False

        def __init__(self, file: Any) -> None:
            self.file = file

        def read(self, size: int = -1) -> bytes:
            nonlocal read
            data: bytes = self.file.read(size)
            read += len(data)
            return data

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Counting:
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

    open_read = storage.open_read
    monkeypatch.setattr(storage, "open_read", lambda uri, block_bytes: Counting(open_read(uri, block_bytes)))
    assert len(read_partition([uri], 3, SCHEMA)) == 1000
    assert read < (tmp_path / "file").stat().st_size / 10


def test_a_reader_asks_s3_for_little_more_than_its_partition(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{s3.uri}/file"
    with write_exchange(uri, SCHEMA, 20, 1 << 30) as rounds:
        rounds.add(rows(400_000), np.arange(400_000) % 20)
    (info,) = storage.list_files(uri)
    asked = 0
    read = s3_module._read

    def count(uri: str, start: int, stop: int | None, tag: str | None) -> bytes:
        nonlocal asked
        assert stop is not None
        asked += stop - start
        return read(uri, start, stop, tag)

    monkeypatch.setattr(s3_module, "_read", count)
    assert len(read_partition([uri], 7, SCHEMA)) == 20_000
    assert info.size / 20 < asked < info.size / 20 + (1 << 20)
    assert info.size > 8 << 20


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), write_exchange(str(tmp_path / "file"), SCHEMA, 2, 1) as rounds:
        rounds.add(rows(10), np.zeros(10, np.int64))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone: no such file"):
        read_partition([str(tmp_path / "gone")], 0, SCHEMA)


def test_s3_holds_the_same_bytes(tmp_path: Path, s3: S3Bucket) -> None:
    for uri in (str(tmp_path / "file"), f"{s3.uri}/file"):
        with write_exchange(uri, SCHEMA, 3, 100) as rounds:
            rounds.add(rows(40), np.arange(40) % 3)
            rounds.add(rows(40, 40), np.arange(40) % 3)
    assert storage.read_bytes(f"{s3.uri}/file") == (tmp_path / "file").read_bytes()
    assert read_partition([f"{s3.uri}/file"], 2, SCHEMA)["number"].to_pylist() == list(range(2, 40, 3)) + list(
        range(42, 80, 3)
    )
