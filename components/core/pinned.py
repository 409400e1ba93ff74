"""Files that parameters name by URI and SHA-256 together: fetched once, and verified before every use."""

from __future__ import annotations

from pathlib import Path

from components.core import storage
from components.core.errors import InputError
from components.core.fingerprint import digest_bytes, digest_file

CACHE = ".embedmill/cache/pinned"


def digest(uri: str) -> str:
    """SHA-256 (hex) of a file, or of a folder: that of the lines `sha256sum` prints for its files, sorted by path.

    Hidden files do not count. By hand: `find . -type f -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum`.
    Raises InputError if there is nothing.
    """
    if storage.exists(uri):
        return _file_digest(uri)
    files = _folder_files(uri)
    return _lines_digest({name: _file_digest(file) for name, file in files.items()})


def fetch(uri: str, sha256: str) -> Path:
    """The local path of the file or folder at `uri`, its content verified; remote ones are kept in CACHE by digest.

    Raises InputError if there is nothing, or another content.
    """
    if storage.is_local(uri):
        _verify(uri, digest(uri), sha256)
        return storage.local_path(uri)
    kept = Path(CACHE) / sha256 / uri.rstrip("/").rpartition("/")[2]
    if kept.exists() and digest(str(kept)) == sha256:
        return kept
    files = {"": uri} if storage.exists(uri) else _folder_files(uri)
    contents = {name: storage.read_bytes(file) for name, file in files.items()}
    digests = {name: digest_bytes(content) for name, content in contents.items()}
    _verify(uri, digests[""] if "" in digests else _lines_digest(digests), sha256)
    for name, content in contents.items():
        storage.write_bytes(str(kept / name), content)
    return kept


def _verify(uri: str, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(f"{uri}: SHA-256 is {found}, expected {expected}; it has changed, or the digest is another's")


def _folder_files(uri: str) -> dict[str, str]:
    """URIs of the files below a folder or prefix, by their path in it."""
    folder = str(storage.local_path(uri)) if storage.is_local(uri) else uri.rstrip("/")
    files = {info.uri.removeprefix(f"{folder}/"): info.uri for info in storage.list_files(folder)}
    if not files:
        raise InputError(f"{uri}: no such file or folder")
    for name in files:
        if not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise InputError(f"{uri}: holds {name!r}, which is no place below it")
    return files


def _file_digest(uri: str) -> str:
    return digest_file(storage.local_path(uri)) if storage.is_local(uri) else digest_bytes(storage.read_bytes(uri))


def _lines_digest(digests: dict[str, str]) -> str:
    names = sorted(digests, key=str.encode)
    return digest_bytes("".join(f"{digests[name]}  {name}\n" for name in names).encode())
