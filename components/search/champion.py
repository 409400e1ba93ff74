"""The folder of the champion model, asked of MLflow only when its store may have changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from components.core import storage, tracking
from components.core.errors import InputError

CACHE = ".embedmill/search/champion.json"


@dataclass(frozen=True)
class Champion:
    """The version with the alias `champion`, and its sentence-transformers folder on this machine."""

    version: str
    folder: Path


def find_champion() -> Champion:
    """The champion of the tracking store. Raises InputError if nothing has passed the gate yet.

    Importing MLflow and opening its database takes longer than a search. A sqlite file that has neither been written
    nor replaced since the last look-up gives the same answer, so that one is kept; a server is asked every time.
    """
    database = tracking.database()
    if database is not None and not database.exists():
        raise _nothing_yet()
    token = _token(database)
    found = _read_cache(token)
    if found is None:
        client = tracking.connect()
        with tracking.tracking_errors():
            version = tracking.champion(client)
            if version is None:
                raise _nothing_yet()
            found = Champion(str(version.version), tracking.fetch_model(client, version))
        if token:
            value = {"token": token, "version": found.version, "folder": str(found.folder)}
            storage.write_bytes(CACHE, json.dumps(value).encode())
    return found


def _token(database: Path | None) -> list[str | int]:
    """What changes with every write to a sqlite file; empty for a server, and while a write is not yet in the file."""
    if database is None or any(Path(f"{database}-{part}").exists() for part in ("journal", "wal")):
        return []
    status = database.stat()
    return [str(database.resolve()), status.st_ino, status.st_mtime_ns, status.st_size]


def _read_cache(token: list[str | int]) -> Champion | None:
    if not token or not storage.exists(CACHE):
        return None
    value = json.loads(storage.read_bytes(CACHE))
    folder = Path(value["folder"])
    return Champion(value["version"], folder) if value["token"] == token and folder.is_dir() else None


def _nothing_yet() -> InputError:
    return InputError(
        f"{tracking.store_name()} has no champion yet; `embedmill run` trains one, "
        "or name a model with --model models/export"
    )
