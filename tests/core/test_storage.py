from __future__ import annotations

import threading
from pathlib import Path

import pytest

from components.core import storage
from components.core.errors import InputError


def test_of_racing_creators_exactly_one_wins_and_its_bytes_stay(tmp_path: Path) -> None:
    uri, won = str(tmp_path / "claim"), []
    barrier = threading.Barrier(6)

    def create(name: str) -> None:
        barrier.wait()
        if storage.create_bytes(uri, name.encode()):
            won.append(name)

    threads = [threading.Thread(target=create, args=(f"writer-{i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes(uri).decode() == won[0]
    assert [path.name for path in tmp_path.iterdir()] == ["claim"]


def test_listing_is_sorted_takes_folders_and_globs_and_leaves_hidden_files_out(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/c.jsonl", "a/.hidden", "d.csv", ".tmp/e.jsonl"):
        storage.write_bytes(str(tmp_path / name), b"x")
    names = [Path(info.uri).relative_to(tmp_path).as_posix() for info in storage.list_files(str(tmp_path))]
    assert names == ["a/c.jsonl", "b.jsonl", "d.csv"]
    found = storage.list_files(str(tmp_path / "**" / "*.jsonl"))
    assert [Path(info.uri).name for info in found] == ["c.jsonl", "b.jsonl"]
    assert storage.list_files(str(tmp_path / "none")) == []
    assert storage.list_files((tmp_path / "d.csv").as_uri())[0].size == 1


@pytest.mark.parametrize("spelling", ["./out", "out/", "in/../out", "out//deep", "file://{}/o%20ut"])
def test_what_is_listed_has_the_uri_that_it_was_written_at(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    folder = spelling.format(tmp_path)
    uris = [storage.join(folder, name) for name in ("a/b.jsonl", "c.jsonl")]
    for uri in uris:
        storage.write_bytes(uri, b"x")
    assert [info.uri for info in storage.list_files(folder)] == uris
    assert storage.list_files(uris[0])[0].uri == uris[0]


def test_a_failed_write_leaves_the_old_content_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = str(tmp_path / "file")
    storage.write_bytes(uri, b"old")

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(InputError, match="No space left on device"):
        storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such file"):
        storage.read_bytes(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"gopher://x: only local paths, file://, s3:// and hf://datasets/"):
        storage.read_bytes("gopher://x")
