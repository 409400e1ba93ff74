"""The storage interface against a real S3 server."""

from __future__ import annotations

import io
import threading

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core import s3 as store
from components.core import storage
from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.errors import InputError, MissingFile
from components.core.execute import map_ordered
from components.core.manifest import Dataset
from components.core.records import record_table, rejected_table
from tests.fixtures.seaweed import S3Bucket


def test_objects_are_written_replaced_listed_by_prefix_and_glob_and_removed(s3: S3Bucket) -> None:
    for name in ("text/b.jsonl", "text/a.csv", "text-of-others/c.jsonl"):
        storage.write_bytes(storage.join(s3.uri, name), b"old")
    storage.write_bytes(f"{s3.uri}/text/b.jsonl", b"new content")
    assert storage.read_bytes(f"{s3.uri}/text/b.jsonl") == b"new content"
    listed = storage.list_files(f"{s3.uri}/text")
    assert [info.uri for info in listed] == [f"{s3.uri}/text/a.csv", f"{s3.uri}/text/b.jsonl"]
    assert [info.size for info in listed] == [3, 11]
    assert listed[0].digest_hint != listed[1].digest_hint
    assert [info.uri for info in storage.list_files(f"{s3.uri}/text*/*.jsonl")] == [
        f"{s3.uri}/text-of-others/c.jsonl",
        f"{s3.uri}/text/b.jsonl",
    ]
    assert len(storage.list_files(s3.uri)) == 3
    for hidden in (".cache/x.jsonl", "text/.tmp/y.jsonl", "text/.z.jsonl"):
        storage.write_bytes(storage.join(s3.uri, hidden), b"x")
    assert storage.list_files(f"{s3.uri}/text") == listed
    assert len(storage.list_files(s3.uri)) == 3
    assert [info.size for info in storage.list_files(f"{s3.uri}/.cache")] == [1]
    storage.remove(f"{s3.uri}/text/b.jsonl")
    assert not storage.exists(f"{s3.uri}/text/b.jsonl")
    assert storage.list_files(f"{s3.uri}/none") == []


def test_of_racing_creators_exactly_one_wins(s3: S3Bucket) -> None:
    uri, won = f"{s3.uri}/claim", []
    barrier = threading.Barrier(4)

    def create(name: str) -> None:
        barrier.wait()
        if storage.create_bytes(uri, name.encode()):
            won.append(name)

    threads = [threading.Thread(target=create, args=(f"writer-{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes(uri).decode() == won[0]


def test_a_parquet_object_is_read_by_ranges(s3: S3Bucket) -> None:
    table = pa.table({"n": list(range(200_000)), "text": [f"row {i}" for i in range(200_000)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=20_000)
    storage.write_bytes(f"{s3.uri}/rows.parquet", buffer.getvalue())
    with storage.open_read(f"{s3.uri}/rows.parquet") as file:
        reader = pq.ParquetFile(file)
        assert reader.read_row_group(7, columns=["n"])["n"][0].as_py() == 140_000
        file.seek(-4, io.SEEK_END)
        assert file.read() == b"PAR1"


def test_a_dataset_is_built_and_read_in_a_bucket(s3: S3Bucket) -> None:
    def work(task: ShardTask) -> list[ShardOutput]:
        row = {"task": "retri_contrast", "text": f"q {task.name}", "text_pos": "p", "source": "s"}
        return [ShardOutput(record_table([row]), rejected_table([]), {"s": 1})]

    uri = f"{s3.uri}/data/ingest"
    tasks = [ShardTask(f"{i:05d}", str(i), i) for i in range(2)]
    built = build_dataset(uri, "ingest", tasks, work, "fingerprint", workers=2)
    assert Dataset.open(uri).digest == built.digest
    assert built.read()["text"].to_pylist() == ["q 00000", "q 00001"]
    left = [info.uri.removeprefix(f"{uri}/") for info in storage.list_files(uri)]
    assert left == ["manifest.json", *(f"{side}/0000{i}.parquet" for side in ("rejected", "shards") for i in (0, 1))]


def test_a_missing_object_bucket_or_key_is_named(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"{s3.uri}/nothing: no such object"):
        storage.read_bytes(f"{s3.uri}/nothing")
    with pytest.raises(InputError, match="s3://no-such-bucket/x"):
        storage.write_bytes("s3://no-such-bucket/x", b"")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    store.client.cache_clear()
    with pytest.raises(InputError, match=f"{s3.uri}/x: SignatureDoesNotMatch"):
        storage.write_bytes(f"{s3.uri}/x", b"")
    with pytest.raises(InputError, match="SignatureDoesNotMatch"):
        storage.list_files(s3.uri)


def test_an_error_of_a_worker_arrives_as_it_was_raised(s3: S3Bucket) -> None:
    with pytest.raises(MissingFile, match=f"{s3.uri}/nothing: no such object"):
        list(map_ordered(storage.read_bytes, [f"{s3.uri}/nothing"] * 2, 2))
    with pytest.raises(InputError, match="s3://no-such-bucket/x: NoSuchBucket"):
        list(map_ordered(storage.read_bytes, ["s3://no-such-bucket/x"] * 2, 2))
