"""SHA-256 of local files, remembered by path, size and modification time so that an unchanged file is read once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.core import storage
from components.core.fingerprint import digest_file

CACHE = ".embedmill/cache/digests.json"


class FileDigests:
    """Digests of files, with a cache that is only a shortcut: without it the result is the same."""

    def __init__(self, cache: str = CACHE) -> None:
        self._cache = cache
        self._known: dict[str, Any] = _load(Path(cache))
        self._used: dict[str, Any] = {}

    def of(self, path: Path) -> str:
        """SHA-256 (hex) of a file's content."""
        status = path.stat()
        key, state = str(path.absolute()), [status.st_size, status.st_mtime_ns]
        entry = self._known.get(key)
        if not (isinstance(entry, list) and entry[:2] == state):
            entry = [*state, digest_file(path)]
        self._used[key] = entry
        return str(entry[2])

    def save(self) -> None:
        """Keep the digests that were asked for; forget the others."""
        if self._used != self._known:
            storage.write_bytes(self._cache, json.dumps(self._used, sort_keys=True).encode())


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
