"""Reading hf:// from a fake hub: the real one needs a network."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core import remote, storage
from components.core.errors import InputError, UsageError
from tests.conftest import Embedmill
from tests.fixtures.fake_hub import TOKEN, FakeHub, fake_hub

ROOT = "hf://datasets/team/pairs"


def parquet(rows: int) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"n": range(rows), "text": [f"row {n}" for n in range(rows)]}), buffer, row_group_size=500)
    return buffer.getvalue()


FILES = {
    "README.md": b"about",
    ".gitattributes": b"*.parquet filter=lfs",
    "train/a.jsonl": b"".join(b'{"text": "question %d", "text_pos": "answer %d"}\n' % (n, n) for n in range(100)),
    "train/b.parquet": parquet(2000),
    "train-old/c.jsonl": b"{}\n",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(remote, "ATTEMPTS", 3)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "hf" / "token"))
    with fake_hub(FILES) as (each, endpoint):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        yield each


def test_files_are_listed_by_name_folder_glob_and_revision(hub: FakeHub) -> None:
    def listed(uri: str) -> list[str]:
        return [info.uri.removeprefix(f"{ROOT}") for info in storage.list_files(uri)]

    assert listed(ROOT) == ["/README.md", "/train-old/c.jsonl", "/train/a.jsonl", "/train/b.parquet"]
    assert listed(f"{ROOT}/train/") == ["/train/a.jsonl", "/train/b.parquet"]
    assert listed(f"{ROOT}/train/a.jsonl") == ["/train/a.jsonl"]
    assert listed(f"{ROOT}/train*/*.jsonl") == ["/train-old/c.jsonl", "/train/a.jsonl"]
    assert listed(f"{ROOT}@v1") == ["@v1/old.jsonl"]
    assert listed(f"{ROOT}/none") == listed(f"{ROOT}/none/*.csv") == []
    small, stored = storage.list_files(f"{ROOT}/train-old/c.jsonl")[0], storage.list_files(f"{ROOT}/train/b.parquet")[0]
    assert (small.size, stored.size) == (3, len(FILES["train/b.parquet"]))
    assert len(stored.digest_hint) == 64  # SHA-256 of what is stored, not of the pointer to it


def test_files_are_read_whole_and_by_ranges_and_the_token_stays_with_the_hub(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert storage.read_bytes(f"{ROOT}/train/a.jsonl") == FILES["train/a.jsonl"]
    assert storage.read_bytes(f"{ROOT}@v1/old.jsonl") == b'{"text": "old"}\n'
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(remote, "BLOCK_BYTES", 4096)
    with storage.open_read("hf://datasets/team/secret/train/b.parquet") as file:
        reader = pq.ParquetFile(file)
        assert reader.read_row_group(3, columns=["n"])["n"][0].as_py() == 1500
    assert any(path.startswith("/stored/") and not token for _, path, token in hub.seen)
    assert storage.exists(f"{ROOT}/README.md")
    assert not storage.exists(f"{ROOT}/train")
    assert not storage.exists(f"{ROOT}/none")


def test_faults_pass_or_end_in_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PROGRESS_BYTES", 1000)
    hub.fail = 2
    assert len(storage.list_files(ROOT)) == 4
    hub.fail, hub.cut = 2, 4
    assert storage.read_bytes(f"{ROOT}/train/b.parquet") == FILES["train/b.parquet"]
    hub.fail = 99
    for call in (storage.read_bytes, storage.list_files, storage.exists, storage.open_read):
        with pytest.raises(InputError, match=f"^{ROOT}/x: the hub answers 503 .given up after 3 attempts.$"):
            call(f"{ROOT}/x")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(InputError, match=r"/x: the connection to http://127\.0\.0\.1:1 failed, ConnectError \(given"):
        storage.read_bytes(f"{ROOT}/x")


def test_what_is_not_there_or_not_allowed_is_named_without_the_token(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uri, message in (
        (f"{ROOT}/none.csv", "no such file in the data set"),
        (f"{ROOT}@v9/old.jsonl", "no such revision"),
        ("hf://datasets/team/none/x", "no such data set"),
        ("hf://datasets/team/secret/train/a.jsonl", r"only a token opens; set HF_TOKEN \(status 401\)"),
    ):
        with pytest.raises(InputError, match=message):
            storage.read_bytes(uri)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_token")
    with pytest.raises(InputError) as caught:
        storage.list_files(ROOT)
    assert "hf_wrong" not in str(caught.value)
    for uri in ("hf://models/team/pairs/x", "hf://datasets/team", f"{ROOT}@/x"):
        with pytest.raises(UsageError, match=r"expected hf://datasets/OWNER/NAME\[@REVISION\]/path"):
            storage.list_files(uri)


def test_nothing_is_written_to_the_hub() -> None:
    for write in (
        lambda: storage.write_bytes(f"{ROOT}/x", b""),
        lambda: storage.create_bytes(f"{ROOT}/x", b""),
        lambda: storage.upload(__file__, f"{ROOT}/x"),
        lambda: storage.remove(f"{ROOT}/x"),
        lambda: storage.remove_tree(ROOT),
    ):
        with pytest.raises(UsageError, match=f"{ROOT}.*: the hub is only read from; write to a local path or s3://"):
            write()


def test_a_source_on_the_hub_is_ingested_from_the_command_line(
    hub: FakeHub, embedmill: Embedmill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"uri": "hf://datasets/team/secret/train/a.jsonl", "name": "pairs", "task": "retri_contrast"}
    (tmp_path / "params.yaml").write_text(json.dumps({"ingest": {"sources": [source]}}))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for step in ("sources", "ingest"):
        done = embedmill(step)
        assert done.returncode == 0, done.stderr
    assert done.stderr == "ingest: 100 records to train on, 0 held out, 0 rows quarantined\n"
    assert TOKEN not in "".join(path.read_text("latin-1") for path in tmp_path.rglob("*") if path.is_file())
    done = embedmill("sources", env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 3
    assert "train/a.jsonl: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the hub is not asked" in done.stderr
    done = embedmill("ingest", "--output", f"{ROOT}/out")
    assert done.returncode == 2
    assert "the hub is only read from" in done.stderr
