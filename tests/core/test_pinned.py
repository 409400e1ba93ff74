"""Files named by URI and digest, from a real S3 server: fetched once, verified before every use."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core import storage
from components.core.errors import InputError
from components.core.pinned import digest, fetch
from tests.fixtures.seaweed import S3Bucket


def test_a_remote_folder_is_fetched_once_and_again_if_its_copy_is_damaged(
    s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"{s3.uri}/models/toxic"
    for name in ("model.onnx", "sub/config.json"):
        storage.write_bytes(f"{uri}/{name}", name.encode())
    sha256 = digest(uri)
    copy = fetch(uri, sha256)
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*.*")) == ["model.onnx", "sub/config.json"]
    assert digest(str(copy)) == sha256
    storage.remove(f"{uri}/model.onnx")
    assert fetch(uri, sha256) == copy  # the store is not asked again
    (copy / "sub/config.json").write_bytes(b"damaged")
    with pytest.raises(InputError, match=f"expected {sha256}"):
        fetch(uri, sha256)  # it is, and there the file is gone
    storage.write_bytes(f"{uri}/model.onnx", b"model.onnx")
    assert (fetch(uri, sha256) / "sub/config.json").read_bytes() == b"sub/config.json"


def test_a_name_that_leads_out_of_the_folder_is_refused(
    s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "list_files", lambda uri: [storage.FileInfo(f"{uri}/../../x", 1, "")])
    with pytest.raises(InputError, match=r"holds '\.\./\.\./x', which is no place below it"):
        fetch(f"{s3.uri}/model", "0" * 64)


def test_a_remote_file_with_another_digest_is_refused_and_not_kept(
    s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write_bytes(f"{s3.uri}/list.txt", b"example.com\n")
    with pytest.raises(InputError, match=rf"list.txt: SHA-256 is {digest(f'{s3.uri}/list.txt')}, expected 000"):
        fetch(f"{s3.uri}/list.txt", "0" * 64)
    assert not list(tmp_path.rglob("list.txt"))
    with pytest.raises(InputError, match=r"none\.txt: no such file or folder"):
        fetch(f"{s3.uri}/none.txt", "0" * 64)
