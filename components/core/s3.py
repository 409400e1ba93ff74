"""Objects in S3, at any endpoint (AWS_ENDPOINT_URL): every request has time limits and is tried again."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, cast

from components.core import remote
from components.core.errors import InputError, MissingFile
from components.core.remote import FileInfo, Transient

PART_BYTES = 32 << 20  # of a multipart upload; S3 takes 10,000 parts
CHUNK_BYTES = 1 << 20
DELETE_KEYS = 1000  # as many as one request may name
TRANSIENT_CODES = ("RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "Throttling", "BadDigest")


def open_read(uri: str, block_bytes: int) -> BinaryIO:
    """A seekable reader of the object as it is now. Raises InputError if it is missing, or replaced meanwhile."""
    head = _ask(uri, "head_object")
    tag = head["ETag"]
    read = remote.buffered(head["ContentLength"], lambda start, stop: _read(uri, start, stop, tag), block_bytes)
    return cast(BinaryIO, read)


def read_bytes(uri: str) -> bytes:
    """The whole object."""
    return _read(uri, 0, None, None)


def _read(uri: str, start: int, stop: int | None, tag: str | None) -> bytes:
    from botocore.exceptions import FlexibleChecksumError

    seen = [tag] if tag else []

    def stream(start: int, stop: int | None, body: bytearray) -> None:
        more = {"IfMatch": seen[0]} if seen else {}
        if start or stop is not None:
            more["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        with _errors(uri):
            answer = _client().get_object(**_named(uri), **more)
            seen[:] = [answer["ETag"]]
            before, expected = len(body), len(body) + answer["ContentLength"]
            try:
                for chunk in answer["Body"].iter_chunks(CHUNK_BYTES):
                    body += chunk
            except FlexibleChecksumError:  # what has come is not what was stored
                del body[before:]
                raise
            if len(body) < expected:
                raise Transient("the connection was cut")

    return remote.read_body(uri, start, stop, stream)


def write_bytes(uri: str, data: bytes) -> None:
    """Write an object; readers see the old one or the new one."""
    _ask(uri, "put_object", Body=data)


def create_bytes(uri: str, data: bytes) -> bool:
    """Write an object only if there is none yet; of any number of racing callers exactly one gets True."""
    failed = False

    def attempt() -> bool:
        nonlocal failed
        try:
            with _errors(uri):
                _client().put_object(**_named(uri), Body=data, IfNoneMatch="*")
            return True
        except Transient:
            failed = True
            raise
        except _Refused as refusal:
            if refusal.status not in (409, 412):
                raise
            # an attempt that seemed to fail may have arrived: then the object is ours
            return failed and read_bytes(uri) == data

    return remote.retried(uri, attempt)


def upload(file: BinaryIO, uri: str) -> None:
    """Copy a file part by part; nothing is visible before the last one, and nothing stays of a failed upload."""
    part = file.read(PART_BYTES)
    if len(part) < PART_BYTES:
        return write_bytes(uri, part)
    upload_id = _ask(uri, "create_multipart_upload")["UploadId"]
    try:
        parts: list[dict[str, Any]] = []
        while part:
            number = len(parts) + 1
            tag = _ask(uri, "upload_part", UploadId=upload_id, PartNumber=number, Body=part)["ETag"]
            parts.append({"ETag": tag, "PartNumber": number})
            part = file.read(PART_BYTES)
        _ask(uri, "complete_multipart_upload", UploadId=upload_id, MultipartUpload={"Parts": parts})
    except BaseException:
        _abandon(uri, upload_id)
        raise
    return None


def _abandon(uri: str, upload_id: str) -> None:
    """Ask once to forget the parts; a server that is gone forgets them by the bucket's own rules."""
    with contextlib.suppress(Transient, InputError), _errors(uri):
        _client().abort_multipart_upload(**_named(uri), UploadId=upload_id)


def exists(uri: str) -> bool:
    """Whether an object has this key."""
    try:
        _ask(uri, "head_object")
    except MissingFile:
        return False
    return True


def remove(uri: str) -> None:
    """Delete an object; one that is not there is no error."""
    _ask(uri, "delete_object")


def remove_all(bucket: str, uris: Sequence[str]) -> None:
    """Delete objects of the bucket `s3://NAME`, a thousand a request."""
    for start in range(0, len(uris), DELETE_KEYS):
        keys = [{"Key": _named(uri)["Key"]} for uri in uris[start : start + DELETE_KEYS]]
        answer = _ask(bucket, "delete_objects", Delete={"Objects": keys, "Quiet": True})
        for error in answer.get("Errors", ()):
            raise InputError(f"{bucket}/{error['Key']}: {error['Code']}: {error.get('Message', 'not deleted')}")


def list_files(uri: str) -> list[FileInfo]:
    """The objects at `uri`: the one of that key, all below that prefix, or what a glob matches; hidden ones too."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    found = []
    for entry in _pages(uri, Prefix=remote.fixed_part(key)):
        name = entry["Key"]
        if not name.endswith("/") and remote.wanted(name, key):
            found.append(FileInfo(f"s3://{bucket}/{name}", entry["Size"], entry["ETag"].strip('"')))
    return found


def _pages(uri: str, **more: str) -> Iterator[dict[str, Any]]:
    while True:
        page = _ask(uri, "list_objects_v2", **more)
        yield from page.get("Contents", ())
        if not page.get("IsTruncated"):
            return
        more["ContinuationToken"] = page["NextContinuationToken"]


class _Refused(InputError):
    """A final answer of the server, with its HTTP status."""

    def __init__(self, message: str, status: int = 0) -> None:  # a worker's error arrives by its message
        super().__init__(message)
        self.status = status


def _ask(uri: str, operation: str, **more: Any) -> dict[str, Any]:
    """The answer to an operation on the object or bucket of `uri`. Raises InputError naming it."""
    names = _named(uri)
    if operation in ("list_objects_v2", "delete_objects"):
        names.pop("Key")

    def attempt() -> dict[str, Any]:
        with _errors(uri):
            return cast("dict[str, Any]", getattr(_client(), operation)(**names, **more))

    return remote.retried(uri, attempt)


def _named(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise InputError(f"{uri}: an S3 URI has the form s3://bucket/key")
    return {"Bucket": bucket, "Key": key}


def _client() -> Any:
    return client(remote.CONNECT_SECONDS, remote.READ_SECONDS, os.getpid())


@lru_cache(maxsize=1)
def client(connect_seconds: float, read_seconds: float, process: int) -> Any:
    """The client of this process. It tries once: a body that breaks off is beyond its own retries."""
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=connect_seconds,
        read_timeout=read_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
    )
    return boto3.client("s3", config=config)


@contextmanager
def _errors(uri: str) -> Iterator[None]:
    """Turn what boto3 raises into Transient or a final refusal."""
    from botocore import exceptions
    from botocore.exceptions import BotoCoreError, ClientError

    passing = (
        exceptions.ConnectionError,
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
        exceptions.FlexibleChecksumError,
    )
    try:
        yield
    except ClientError as error:
        meta = error.response.get("ResponseMetadata", {})
        status = meta.get("HTTPStatusCode", 0)
        answer = error.response.get("Error", {})
        code = answer.get("Code", "error")
        if status in remote.TRANSIENT_STATUS or code in TRANSIENT_CODES:
            wait = remote.retry_after(meta.get("HTTPHeaders", {}).get("retry-after"))
            raise Transient(f"the server answers {status} {code}", wait) from None
        if status == 404 and code in ("404", "NoSuchKey"):
            raise MissingFile(f"{uri}: no such object") from None
        if status == 412:
            raise _Refused(f"{uri}: replaced while it was being read", status) from None
        raise _Refused(f"{uri}: {code}: {answer.get('Message', error)}", status) from None
    except passing as error:
        if isinstance(error, exceptions.SSLError):
            raise InputError(f"{uri}: {error}") from None
        raise Transient(str(error).rstrip(".")) from None
    except BotoCoreError as error:
        raise InputError(f"{uri}: {error}") from None
    except OSError as error:
        raise Transient(error.strerror or str(error)) from None
