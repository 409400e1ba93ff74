"""Storage on a real S3 server whose answers fail, stall and break off: it recovers, or it ends with one clear line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import boto3
import pytest

from components.core import remote, storage
from components.core import s3 as store
from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.errors import InputError
from components.core.manifest import Dataset
from components.core.records import record_table, rejected_table
from tests.fixtures.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.fixtures.seaweed import S3Bucket

BLOCK = 64 << 10
DATA = bytes(range(256)) * 1000  # four blocks of the reader
TIMES: dict[Fault, int] = {"500": 3, "503": 3, "stall": 1, "cut": 3, "cut_body": 3}


@pytest.fixture
def proxy(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that everything below goes through, with waits that a test can afford."""
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(remote, "READ_SECONDS", 1.0)
    monkeypatch.setattr(remote, "ATTEMPTS", 4)
    monkeypatch.setattr(remote, "BLOCK_BYTES", BLOCK)
    monkeypatch.setattr(remote, "PROGRESS_BYTES", 1 << 10)
    with fault_proxy(s3.endpoint) as (each, endpoint):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
        yield each
        each.fail("500", 0)
    store.client.cache_clear()


@pytest.mark.parametrize("fault", TIMES)
def test_reads_and_writes_recover_from_faults(proxy: FaultProxy, s3: S3Bucket, fault: Fault) -> None:
    uri = f"{s3.uri}/data/file"
    proxy.fail(fault, TIMES[fault])
    storage.write_bytes(uri, DATA)
    for read in (
        lambda: storage.read_bytes(uri) == DATA,
        lambda: storage.exists(uri),
        lambda: [info.size for info in storage.list_files(f"{s3.uri}/data")] == [len(DATA)],
        lambda: storage.open_read(uri).read() == DATA,
    ):
        proxy.fail(fault, TIMES[fault], lambda line: not line.startswith("HEAD"))
        assert read()
    storage.remove(uri)
    assert not storage.exists(uri)


def test_a_body_that_is_cut_is_resumed_and_not_begun_again(proxy: FaultProxy, s3: S3Bucket) -> None:
    uri = f"{s3.uri}/file"
    storage.write_bytes(uri, DATA)
    proxy.fail("cut_body", 5)  # more often than there are attempts: each brought some of it
    assert storage.read_bytes(uri) == DATA
    assert len(proxy.seen) == 6
    with storage.open_read(uri) as file:
        file.seek(200_000)
        proxy.fail("cut_body", 2)
        assert file.read(1000) == DATA[200_000:201_000]
        file.seek(-4, io.SEEK_END)
        assert file.read() == DATA[-4:]


def test_a_file_that_is_replaced_while_it_is_read_is_no_mixture(proxy: FaultProxy, s3: S3Bucket) -> None:
    uri = f"{s3.uri}/file"
    storage.write_bytes(uri, DATA)
    with storage.open_read(uri) as file:
        assert file.read(10) == DATA[:10]
        storage.write_bytes(uri, DATA[::-1])
        file.seek(200_000)
        with pytest.raises(InputError, match=f"{uri}: replaced while it was being read"):
            file.read(10)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "the server answers 500"),
        ("503", "the server answers 503"),
        ("stall", "Read timeout on endpoint URL"),
        ("cut", "Connection was closed before we received a valid response"),
    ],
)
def test_a_server_that_stays_bad_ends_in_one_line(
    proxy: FaultProxy, s3: S3Bucket, fault: Fault, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3.uri}/file"
    storage.write_bytes(uri, b"old")
    monkeypatch.setattr(remote, "READ_SECONDS", 0.2 if fault == "stall" else 1.0)
    proxy.fail(fault, 1000)
    for call in (
        lambda: storage.write_bytes(uri, b"new"),
        lambda: storage.create_bytes(f"{s3.uri}/other", b"new"),
        lambda: storage.read_bytes(uri),
        lambda: storage.open_read(uri),
        lambda: storage.exists(uri),
        lambda: storage.list_files(s3.uri),
    ):
        with pytest.raises(InputError) as caught:
            call()
        said = str(caught.value)
        assert said.startswith(s3.uri)
        assert reason in said
        assert said.endswith("(given up after 4 attempts)")
        assert "\n" not in said
    proxy.fail("500", 0)
    monkeypatch.setattr(remote, "READ_SECONDS", 10.0)
    assert storage.read_bytes(uri) == b"old"
    assert [info.uri for info in storage.list_files(s3.uri)] == [uri]


def test_a_claim_whose_answer_was_lost_is_still_won_once(proxy: FaultProxy, s3: S3Bucket) -> None:
    proxy.fail("cut_answer", 1)
    assert storage.create_bytes(f"{s3.uri}/claim", b"one")
    proxy.fail("cut", 1)
    assert not storage.create_bytes(f"{s3.uri}/claim", b"two")
    assert storage.read_bytes(f"{s3.uri}/claim") == b"one"


def test_a_large_upload_recovers_part_by_part_or_leaves_nothing(
    proxy: FaultProxy, s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PART_BYTES", 5 << 20)  # S3 takes no smaller parts, save the last one
    source, data = tmp_path / "large", DATA * 45
    source.write_bytes(data)
    proxy.fail("503", 3, lambda line: "partNumber=2" in line)
    storage.upload(source, f"{s3.uri}/large")
    assert storage.read_bytes(f"{s3.uri}/large") == data
    proxy.fail("cut", 1000, lambda line: "partNumber=3" in line)
    with pytest.raises(InputError, match=r"second: .* \(given up after 4 attempts\)"):
        storage.upload(source, f"{s3.uri}/second")
    assert not storage.exists(f"{s3.uri}/second")
    assert not store._client().list_multipart_uploads(Bucket=s3.bucket).get("Uploads")


def work(task: ShardTask, word: str) -> list[ShardOutput]:
    row = {"task": "retri_contrast", "text": f"{word} {task.name}", "text_pos": "p", "source": "s"}
    return [ShardOutput(record_table([row]), rejected_table([]), {"s": 1})]


@pytest.mark.parametrize("fault", TIMES)
def test_a_dataset_is_the_old_one_or_complete(proxy: FaultProxy, s3: S3Bucket, fault: Fault) -> None:
    uri = f"{s3.uri}/data"
    tasks = [ShardTask(f"{i:05d}", str(i), i) for i in range(3)]
    first = build_dataset(uri, "ingest", tasks, partial(work, word="first"), "one")
    proxy.fail(fault, TIMES[fault], lambda line: "00001" in line)
    second = build_dataset(uri, "ingest", tasks, partial(work, word="second"), "two")
    assert second.digest != first.digest
    assert second.read(["text"])["text"].to_pylist() == [f"second 0000{i}" for i in range(3)]

    if fault in ("cut_body", "stall"):  # an answer to a write has no body to cut; the other takes long
        return
    proxy.fail(fault, 1000, lambda line: line.startswith("PUT") and "manifest.json" in line and "_work" not in line)
    with pytest.raises(InputError, match=r"manifest\.json: .*given up after 4 attempts"):
        build_dataset(uri, "ingest", tasks, partial(work, word="third"), "three")
    proxy.fail("500", 0)
    with pytest.raises(InputError, match=r"no manifest\.json"):
        Dataset.open(uri)
    done = build_dataset(uri, "ingest", tasks, partial(work, word="never made again"), "three")
    assert done.read(["text"])["text"].to_pylist() == [f"third 0000{i}" for i in range(3)]
