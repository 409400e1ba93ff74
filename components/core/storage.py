"""Files by URI: local paths, file:// and s3:// behind one set of functions, so that no step knows which it works on.

S3 is any S3: the endpoint comes from AWS_ENDPOINT_URL, credentials from boto3's usual chain.
"""

from __future__ import annotations

import glob
import io
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from components.core.errors import InputError

BLOCK_BYTES = 8 << 20
MAGIC = "*?["


@dataclass(frozen=True)
class FileInfo:
    """A listed file: its URI, size in bytes, and a token that changes with its content (mtime or S3 ETag)."""

    uri: str
    size: int
    digest_hint: str


def is_s3(uri: str) -> bool:
    """Whether `uri` names an S3 object or prefix."""
    return uri.startswith("s3://")


def is_local(uri: str) -> bool:
    """Whether `uri` is a path or a file:// URI of this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path of a local URI (`file://…` or a plain path). Raises InputError for any other scheme."""
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    if "://" in uri:
        raise InputError(f"{uri}: only local paths, file:// and s3:// are supported")
    return Path(uri)


def join(uri: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return "/".join([uri.rstrip("/"), *parts]) if parts else uri


def read_bytes(uri: str) -> bytes:
    """The whole content. Raises InputError if it is missing or cannot be read."""
    with open_read(uri) as file:
        return file.read()


def open_read(uri: str) -> BinaryIO:
    """A seekable binary reader; S3 objects are read in ranged blocks, so memory stays bounded."""
    if is_s3(uri):
        bucket, key = _s3_parts(uri)
        with _s3_errors(uri):
            size = _s3().head_object(Bucket=bucket, Key=key)["ContentLength"]
        return cast(BinaryIO, io.BufferedReader(_S3Reader(uri, size), BLOCK_BYTES))
    path = local_path(uri)
    with _local_errors(uri):
        return path.open("rb")


def write_bytes(uri: str, data: bytes) -> None:
    """Write so that readers see the old content or the new, never a part. Raises InputError if it cannot be written."""
    if is_s3(uri):
        bucket, key = _s3_parts(uri)
        with _s3_errors(uri):
            _s3().put_object(Bucket=bucket, Key=key, Body=data)
        return
    path = local_path(uri)
    with _local_errors(uri), _temporary(path, data) as part:
        part.replace(path)
        _sync_folder(path.parent)


@contextmanager
def open_write(uri: str) -> Iterator[BinaryIO]:
    """A writer for a file that need not fit in memory: readers see it once the block has ended without an error."""
    if is_s3(uri):
        bucket, key = _s3_parts(uri)
        with tempfile.TemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.seek(0)
            with _s3_errors(uri):
                _s3().upload_fileobj(file, bucket, key)
        return
    path = local_path(uri)
    part = _part_path(path)
    with _local_errors(uri):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def create_bytes(uri: str, data: bytes) -> bool:
    """Write only if nothing is there yet; of any number of racing callers exactly one gets True."""
    if is_s3(uri):
        from botocore.exceptions import ClientError

        bucket, key = _s3_parts(uri)
        with _s3_errors(uri):
            try:
                _s3().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412):
                    return False
                raise
        return True
    path = local_path(uri)
    with _local_errors(uri), _temporary(path, data) as part:
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        finally:
            part.unlink()
        _sync_folder(path.parent)
    return True


def upload(source: str | Path, uri: str) -> None:
    """Copy a local file to `uri`, atomically."""
    if is_s3(uri):
        bucket, key = _s3_parts(uri)
        with _s3_errors(uri):
            _s3().upload_file(str(source), bucket, key)
        return
    write_bytes(uri, Path(source).read_bytes())


def exists(uri: str) -> bool:
    """Whether a file (not a folder) is at `uri`."""
    if not is_s3(uri):
        return local_path(uri).is_file()
    from botocore.exceptions import ClientError

    bucket, key = _s3_parts(uri)
    with _s3_errors(uri):
        try:
            _s3().head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                return False
            raise
    return True


def remove(uri: str) -> None:
    """Delete a file; one that is not there is no error."""
    if is_s3(uri):
        bucket, key = _s3_parts(uri)
        with _s3_errors(uri):
            _s3().delete_object(Bucket=bucket, Key=key)
        return
    with _local_errors(uri):
        local_path(uri).unlink(missing_ok=True)


def remove_tree(uri: str) -> None:
    """Delete all below a folder or prefix, unfinished files too, and the folder; one that is not there is no error."""
    if is_s3(uri):
        for info in _list_s3(uri):
            remove(info.uri)
        return
    with _local_errors(uri):
        path = local_path(uri)
        if path.is_dir():
            shutil.rmtree(path)


def list_files(uri: str) -> list[FileInfo]:
    """The files at `uri`, sorted: the file itself, all below a folder or prefix, or what a glob (`*?[`, `**`) matches.

    Hidden files are left out. Nothing found is an empty list; the caller says what was wanted.
    """
    files = _list_s3(uri) if is_s3(uri) else _list_local(uri)
    return sorted(files, key=lambda info: info.uri)


def _list_local(uri: str) -> list[FileInfo]:
    path = local_path(uri)
    with _local_errors(uri):
        if path.is_file():
            found = [path]
        elif path.is_dir():
            found = [
                Path(folder) / name
                for folder, folders, names in os.walk(path)
                if not folders.sort()
                for name in names
                if not any(part.startswith(".") for part in (Path(folder) / name).relative_to(path).parts)
            ]
        elif any(character in str(path) for character in MAGIC):
            found = [Path(match) for match in glob.glob(str(path), recursive=True) if Path(match).is_file()]
        else:
            found = []
        return [FileInfo(str(each), each.stat().st_size, str(each.stat().st_mtime_ns)) for each in found]


def _list_s3(uri: str) -> list[FileInfo]:
    bucket, key = _s3_parts(uri)
    magic = min((key.index(character) for character in MAGIC if character in key), default=len(key))
    pages = _s3().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key[:magic])
    found = []
    with _s3_errors(uri):
        for page in pages:
            for entry in page.get("Contents", ()):
                name = entry["Key"]
                below = name == key or key == "" or name.startswith(key.rstrip("/") + "/")
                if name.endswith("/") or not (below if magic == len(key) else fnmatchcase(name, key)):
                    continue
                found.append(FileInfo(f"s3://{bucket}/{name}", entry["Size"], entry["ETag"].strip('"')))
    return found


@contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A finished file beside `path`, flushed to disk; removed again if it is still there when an error passes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_path(path)
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield part
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _part_path(path: Path) -> Path:
    """Where a file is written before it has its name: hidden, and of this thread alone."""
    return path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _local_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{uri}: no such file") from None
    except OSError as error:
        raise InputError(f"{uri}: {error.strerror or error}") from None


@lru_cache(maxsize=1)
def _s3() -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}))


def _s3_parts(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise InputError(f"{uri}: an S3 URI has the form s3://bucket/key")
    return bucket, key


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
            raise InputError(f"{uri}: no such object") from None
        code = error.response.get("Error", {})
        raise InputError(f"{uri}: {code.get('Code', 'error')}: {code.get('Message', error)}") from None
    except BotoCoreError as error:
        raise InputError(f"{uri}: {error}") from None


class _S3Reader(io.RawIOBase):
    """Ranged reads of one object, so that Parquet footers and decompressors can seek."""

    def __init__(self, uri: str, size: int) -> None:
        self._uri, self._size, self._position = uri, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        bucket, key = _s3_parts(self._uri)
        span = f"bytes={self._position}-{self._position + wanted - 1}"
        with _s3_errors(self._uri):
            data = _s3().get_object(Bucket=bucket, Key=key, Range=span)["Body"].read()
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
