"""What all servers share: retries with backoff, listed files, a reader that survives cut connections."""

from __future__ import annotations

import email.utils
import io
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from components.core.errors import InputError

Result = TypeVar("Result")

ATTEMPTS = 8
# Seconds before the second attempt, doubled for each further one up to the limit; half of it is drawn at random, so
# that many workers do not come back all at once.
BACKOFF_SECONDS = 0.5
BACKOFF_LIMIT_SECONDS = 20.0
# A server that asks for a longer pause is asked again after this one.
WAIT_LIMIT_SECONDS = 60.0
CONNECT_SECONDS = 10.0
READ_SECONDS = 60.0  # without a single byte
# Answers that may be others after a pause.
TRANSIENT_STATUS = (408, 429, 500, 502, 503, 504)
# An attempt that brought this many bytes of a body counts as a success: the next cut starts a new count.
PROGRESS_BYTES = 1 << 20
BLOCK_BYTES = 8 << 20
MAGIC = "*?["


@dataclass(frozen=True)
class FileInfo:
    """A listed file: its URI, size in bytes, and a token that changes with its content (mtime, ETag or digest)."""

    uri: str
    size: int
    digest_hint: str


class Transient(Exception):
    """A failure that may pass: a server error, too many requests, a time-out, a connection that was cut.

    `wait` is the pause that the server asks for, in seconds, if it does.
    """

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


def retry_after(value: str | None) -> float | None:
    """The seconds that a header Retry-After asks for, which is a number or a date; None if it is neither."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def retried(name: str, attempt: Callable[[], Result]) -> Result:
    """What `attempt` returns, tried again while it raises Transient. Raises InputError naming `name` in the end."""
    for number in range(1, ATTEMPTS + 1):
        try:
            return attempt()
        except Transient as error:
            _wait_or_give_up(name, number, error)
    raise AssertionError("unreachable")


def read_body(uri: str, start: int, stop: int | None, stream: Callable[[int, int | None, bytearray], None]) -> bytes:
    """Bytes [start, stop) of a file (to its end if `stop` is None), resumed where a connection was cut.

    `stream(start, stop, body)` appends what arrives to `body` and raises Transient if it does not arrive whole.
    """
    body = bytearray()
    failures = 0
    while True:
        before = len(body)
        try:
            stream(start + before, stop, body)
            return bytes(body)
        except Transient as error:
            failures = 1 if len(body) - before >= PROGRESS_BYTES else failures + 1
            _wait_or_give_up(uri, failures, error)


def _wait_or_give_up(name: str, failures: int, error: Transient) -> None:
    if failures >= ATTEMPTS:
        raise InputError(f"{name}: {error} (given up after {failures} attempts)") from None
    if error.wait is not None:
        time.sleep(min(error.wait, WAIT_LIMIT_SECONDS))
    else:
        seconds = min(BACKOFF_SECONDS * 2 ** (failures - 1), BACKOFF_LIMIT_SECONDS)
        time.sleep(seconds * random.uniform(0.5, 1))


class Reader(io.RawIOBase):
    """Ranged reads of one file of `size` bytes, so that Parquet footers and decompressors can seek."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size, self._read, self._position = size, read, 0

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
        data = self._read(self._position, self._position + wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def buffered(size: int, read: Callable[[int, int], bytes], block_bytes: int = BLOCK_BYTES) -> io.BufferedReader:
    """A seekable reader of `size` bytes that asks `read(start, stop)` for a block at a time, or for more if wanted."""
    return io.BufferedReader(Reader(size, read), block_bytes)


def fixed_part(path: str) -> str:
    """What of a path comes before the first character of a glob."""
    return path[: min((path.index(character) for character in MAGIC if character in path), default=len(path))]


def wanted(name: str, path: str) -> bool:
    """Whether the file `name` is at `path`: the file itself, below that folder, or matched by that glob."""
    if fixed_part(path) != path:
        return fnmatchcase(name, path)
    return path == "" or name == path or name.startswith(path.rstrip("/") + "/")


def is_hidden(uri: str, asked: str) -> bool:
    """Whether a file that was listed for the folder or glob `asked` is hidden, or in a hidden folder below that."""
    fixed = fixed_part(asked)
    folder = asked.rstrip("/") if fixed == asked else fixed.rpartition("/")[0]
    return "/." in uri.removeprefix(folder)
