"""Files by URI, so that no step knows where it works: local paths, file://, s3:// and, to read from, hf://datasets/.

S3 is any S3: the endpoint comes from AWS_ENDPOINT_URL, credentials from boto3's usual chain. The hub is the one at
HF_ENDPOINT, with the token of HF_TOKEN. A failure that may pass is tried again; what is left ends in one clear line.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit

from components.core import hub, remote, s3
from components.core.errors import InputError, MissingFile, UsageError
from components.core.remote import MAGIC, FileInfo

__all__ = ["MAGIC", "FileInfo"]

COPY_BYTES = 1 << 20
# Another run that ends here may remove a folder while something is being written into it, or written into again.
ATTEMPTS = 10


def is_s3(uri: str) -> bool:
    """Whether `uri` names an S3 object or prefix."""
    return uri.startswith("s3://")


def is_hub(uri: str) -> bool:
    """Whether `uri` names files of a data set on the Hugging Face hub, which can only be read."""
    return uri.startswith("hf://")


def is_local(uri: str) -> bool:
    """Whether `uri` is a path or a file:// URI of this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path of a local URI (`file://…` or a plain path). Raises InputError for any other scheme."""
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    if "://" in uri:
        raise InputError(f"{uri}: only local paths, file://, s3:// and hf://datasets/ are supported")
    return Path(uri)


def join(uri: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return "/".join([uri.rstrip("/"), *parts]) if parts else uri


def check_can_write(uri: str) -> None:
    """Raise UsageError if nothing can be written at `uri` by its kind."""
    if is_hub(uri):
        raise UsageError(f"{uri}: the hub is only read from; write to a local path or s3://bucket/prefix")


def read_bytes(uri: str) -> bytes:
    """The whole content. Raises InputError if it is missing or cannot be read."""
    if is_s3(uri):
        return s3.read_bytes(uri)
    if is_hub(uri):
        return hub.read_bytes(uri)
    with _local_errors(uri):
        return local_path(uri).read_bytes()


def open_read(uri: str, block_bytes: int | None = None) -> BinaryIO:
    """A seekable binary reader; remote files are read in ranged blocks, so memory stays bounded.

    Who reads little of a large object asks S3 for smaller blocks.
    """
    if is_s3(uri):
        return s3.open_read(uri, block_bytes or remote.BLOCK_BYTES)
    if is_hub(uri):
        return hub.open_read(uri)
    path = local_path(uri)
    with _local_errors(uri):
        return path.open("rb")


def write_bytes(uri: str, data: bytes) -> None:
    """Write so that readers see the old content or the new, never a part. Raises InputError if it cannot be written."""
    check_can_write(uri)
    if is_s3(uri):
        return s3.write_bytes(uri, data)
    for left in reversed(range(ATTEMPTS)):
        try:
            with open_write(uri) as file:
                file.write(data)
            break
        except MissingFile:
            if not left:
                raise
    return None


@contextmanager
def open_write(uri: str) -> Iterator[BinaryIO]:
    """A writer for a file that need not fit in memory: readers see it once the block has ended without an error."""
    check_can_write(uri)
    if is_s3(uri):
        with tempfile.TemporaryFile() as file:
            yield cast(BinaryIO, file)
            file.seek(0)
            s3.upload(cast(BinaryIO, file), uri)
        return
    path = local_path(uri)
    with _local_errors(uri), _temporary(path) as (part, writer):
        yield writer
        _flush(writer)
        part.replace(path)
        _sync_folder(path.parent)


def create_bytes(uri: str, data: bytes) -> bool:
    """Write only if nothing is there yet; of any number of racing callers exactly one gets True."""
    check_can_write(uri)
    if is_s3(uri):
        return s3.create_bytes(uri, data)
    path = local_path(uri)
    with _local_errors(uri), _temporary(path) as (part, writer):
        writer.write(data)
        _flush(writer)
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        _sync_folder(path.parent)
    return True


def upload(source: str | Path, uri: str) -> None:
    """Copy a local file to `uri`, atomically and in pieces: it need not fit in memory."""
    with _local_errors(str(source)):
        file = Path(source).open("rb")  # noqa: SIM115
    with file:
        if is_s3(uri):
            s3.upload(file, uri)
        else:
            with open_write(uri) as writer:
                shutil.copyfileobj(file, writer, COPY_BYTES)


def fetch(uri: str, folder: Path) -> None:
    """Copy all files below a folder or prefix into a local folder. Raises InputError for one that cannot be read."""
    for info in list_files(uri):
        target = folder / info.uri.removeprefix(uri.rstrip("/")).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_read(info.uri) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, COPY_BYTES)


@contextmanager
def local_folder(uri: str) -> Iterator[Path]:
    """The folder itself, or a copy of what is elsewhere, for the body of a `with`."""
    if is_local(uri):
        yield local_path(uri)
        return
    with tempfile.TemporaryDirectory() as folder:
        fetch(uri, Path(folder))
        yield Path(folder)


def exists(uri: str) -> bool:
    """Whether a file (not a folder) is at `uri`."""
    if is_s3(uri):
        return s3.exists(uri)
    if is_hub(uri):
        return hub.exists(uri)
    return local_path(uri).is_file()


def remove(uri: str) -> None:
    """Delete a file; one that is not there is no error."""
    check_can_write(uri)
    if is_s3(uri):
        return s3.remove(uri)
    with _local_errors(uri):
        local_path(uri).unlink(missing_ok=True)
    return None


def remove_tree(uri: str) -> None:
    """Delete all below a folder or prefix, unfinished files too, and the folder; one that is not there is no error."""
    check_can_write(uri)
    if is_s3(uri):
        return s3.remove_all(uri, [info.uri for info in s3.list_files(uri)])
    with _local_errors(uri):
        _remove_folder(local_path(uri))
    return None


def _remove_folder(path: Path) -> None:
    """Remove a folder that others may be removing, or writing into, at the same time."""

    def note(function: object, name: str, error: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    for left in reversed(range(ATTEMPTS)):
        try:
            if path.is_dir():
                shutil.rmtree(path, onerror=note)
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not left:
                raise


def list_files(uri: str) -> list[FileInfo]:
    """The files at `uri`, sorted: the file itself, all below a folder or prefix, or what a glob (`*?[`, `**`) matches.

    What is below a folder has the URI that `join` makes of it, however `uri` is spelt. Hidden files are left out.
    Nothing found is an empty list; the caller says what was wanted.
    """
    if is_s3(uri):
        files = [info for info in s3.list_files(uri) if not remote.is_hidden(info.uri, uri)]
    elif is_hub(uri):
        files = [info for info in hub.list_files(uri) if not remote.is_hidden(info.uri, uri)]
    else:
        with _local_errors(uri):
            found = [_file_info(name, path) for name, path in _list_local(uri)]
        files = [info for info in found if info]
    return sorted(files, key=lambda info: info.uri)


def _list_local(uri: str) -> Iterator[tuple[str, Path]]:
    """URIs and paths of the files that `uri` means."""
    path = local_path(uri)
    if path.is_file():
        yield uri, path
    elif path.is_dir():
        spell = quote if uri.startswith("file://") else str
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if not name.startswith("."):
                    found = Path(folder) / name
                    yield join(uri, spell(found.relative_to(path).as_posix())), found
    elif any(character in str(path) for character in MAGIC):
        matches = (Path(match) for match in glob.glob(str(path), recursive=True))
        yield from ((str(match), match) for match in matches if match.is_file())


def _file_info(uri: str, path: Path) -> FileInfo | None:
    try:
        found = path.stat()
    except FileNotFoundError:  # removed since it was listed
        return None
    return FileInfo(uri, found.st_size, str(found.st_mtime_ns))


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A hidden file of this thread beside `path`, and a writer for it; removed in the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        with part.open("wb") as file:
            yield part, file
    finally:
        part.unlink(missing_ok=True)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


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
        raise MissingFile(f"{uri}: no such file") from None
    except OSError as error:
        raise InputError(f"{uri}: {error.strerror or error}") from None
