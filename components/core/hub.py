"""Files of data sets on the Hugging Face hub, for reading: hf://datasets/OWNER/NAME[@REVISION]/path.

The hub is the one at HF_ENDPOINT, and its token HF_TOKEN or the one that `hf auth login` has left. Errors are worded
here, from the status alone, so that no token can get into one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from components.core import remote
from components.core.errors import InputError, UsageError
from components.core.remote import FileInfo, Transient

SCHEME = "hf://datasets/"


def open_read(uri: str) -> BinaryIO:
    """A seekable reader of a file."""
    size = _info(uri)["size"]
    return cast(BinaryIO, remote.buffered(size, lambda start, stop: _read(uri, start, stop)))


def read_bytes(uri: str) -> bytes:
    """The whole file."""
    return _read(uri, 0, None)


def exists(uri: str) -> bool:
    """Whether a file (not a folder) is at `uri`."""
    place = _Place.of(uri)
    return [each["type"] for each in _paths_info(uri, place)] == ["file"]


def list_files(uri: str) -> list[FileInfo]:
    """The file at `uri`, all below that folder, or what a glob matches; hidden ones too."""
    place = _Place.of(uri)
    fixed = remote.fixed_part(place.path)
    if fixed == place.path:
        entries = _paths_info(uri, place) if place.path else []
        if not place.path or [each["type"] for each in entries] == ["directory"]:
            entries = _tree(uri, place, place.path)
    else:
        entries = _tree(uri, place, fixed.rpartition("/")[0])
    return [
        FileInfo(f"{place.root}/{each['path']}", each["size"], (each.get("lfs") or each)["oid"])
        for each in entries
        if each["type"] == "file" and remote.wanted(each["path"], place.path)
    ]


@dataclass(frozen=True)
class _Place:
    """The parts of a URI; `path` is empty for the whole data set."""

    repository: str
    revision: str
    path: str
    root: str

    @classmethod
    def of(cls, uri: str) -> _Place:
        """Raises UsageError unless `uri` has the form that is wanted."""
        owner, _, rest = uri.removeprefix(SCHEME).partition("/")
        name, _, path = rest.partition("/")
        name, at, revision = name.partition("@")
        if not uri.startswith(SCHEME) or not owner or not name or (at and not revision):
            raise UsageError(f"{uri}: expected hf://datasets/OWNER/NAME[@REVISION]/path")
        root = f"{SCHEME}{owner}/{name}{at}{revision}"
        return cls(f"{owner}/{name}", revision or "main", path.strip("/"), root)

    def url(self, kind: str, path: str = "") -> str:
        """Of the hub's API: `kind` is tree, paths-info or resolve."""
        api = "" if kind == "resolve" else "/api"
        parts = [_endpoint() + api, "datasets", self.repository, kind, quote(self.revision, safe="")]
        return "/".join([*parts, quote(path)] if path else parts)


def _info(uri: str) -> dict[str, Any]:
    found = _paths_info(uri, _Place.of(uri))
    if [each["type"] for each in found] != ["file"]:
        raise InputError(f"{uri}: no such file in the data set")
    return found[0]


def _paths_info(uri: str, place: _Place) -> list[dict[str, Any]]:
    answer = _ask(uri, "POST", place.url("paths-info"), data={"paths": [place.path], "expand": False})
    return cast("list[dict[str, Any]]", answer.json())


def _tree(uri: str, place: _Place, folder: str) -> list[dict[str, Any]]:
    """Every entry below a folder; none if there is no such folder."""
    url: str | None = place.url("tree", folder)
    parameters: dict[str, str] | None = {"recursive": "true"}
    found: list[dict[str, Any]] = []
    while url:
        try:
            answer = _ask(uri, "GET", url, params=parameters)
        except _Missing as error:
            if error.code == "EntryNotFound":
                return []
            raise
        found += answer.json()
        url, parameters = answer.links.get("next", {}).get("url"), None  # the link holds them already
    return found


def _read(uri: str, start: int, stop: int | None) -> bytes:
    url = _Place.of(uri).url("resolve", _Place.of(uri).path)

    def stream(start: int, stop: int | None, body: bytearray) -> None:
        span = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
        with _errors(uri), _session().stream("GET", url, headers=_headers(span), timeout=_limits()) as answer:
            _check(uri, answer)
            if span and answer.status_code != 206:
                raise InputError(f"{uri}: the hub does not answer to ranges (status {answer.status_code})")
            for chunk in answer.iter_raw():
                body += chunk

    return remote.read_body(uri, start, stop, stream)


def _ask(uri: str, method: str, url: str, **more: Any) -> Any:
    def attempt() -> Any:
        with _errors(uri):
            answer = _session().request(method, url, headers=_headers({}), timeout=_limits(), **more)
            _check(uri, answer)
            return answer

    return remote.retried(uri, attempt)


class _Missing(InputError):
    """The hub does not have it; `code` is the hub's own word for what."""

    def __init__(self, message: str, code: str = "") -> None:  # a worker's error arrives by its message
        super().__init__(message)
        self.code = code


def _check(uri: str, answer: Any) -> None:
    status, code = answer.status_code, answer.headers.get("X-Error-Code", "")
    if status in remote.TRANSIENT_STATUS:
        raise Transient(f"the hub answers {status}", remote.retry_after(answer.headers.get("Retry-After")))
    if status == 404:
        what = {"RepoNotFound": "data set", "RevisionNotFound": "revision"}.get(code, "file in the data set")
        raise _Missing(f"{uri}: no such {what}", code)
    if status in (401, 403):
        raise InputError(f"{uri}: no such data set, or one that only a token opens; set HF_TOKEN (status {status})")
    if status >= 400:
        raise InputError(f"{uri}: the hub answers {status}")


@contextmanager
def _errors(uri: str) -> Iterator[None]:
    """Turn what the hub's client raises into Transient or InputError."""
    try:
        import httpx2
        from huggingface_hub.errors import OfflineModeIsEnabled
    except ImportError:
        raise UsageError(f"{uri}: huggingface-hub is not installed; pip install 'embedmill[data]'") from None

    try:
        yield
    except OfflineModeIsEnabled:
        raise InputError(f"{uri}: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set, so the hub is not asked") from None
    except (httpx2.TransportError, OSError) as error:
        words = {"ReadTimeout": "no answer in time", "ConnectTimeout": "no connection in time"}
        name = type(error).__name__
        raise Transient(words.get(name, f"the connection to {_endpoint()} failed, {name}")) from None


def _session() -> Any:
    from huggingface_hub import get_session

    return get_session()


def _headers(more: dict[str, str]) -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    # no compression on the way: positions are those of the file
    headers = {"User-Agent": "embedmill", "Accept-Encoding": "identity", **more}
    return {**headers, "Authorization": f"Bearer {token}"} if token else headers


def _limits() -> Any:
    import httpx2

    return httpx2.Timeout(remote.READ_SECONDS, connect=remote.CONNECT_SECONDS)


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")
