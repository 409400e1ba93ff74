"""Where the served model comes from: a folder, S3, or the MLflow registry, whose aliases move on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from components.core import storage, tracking
from components.core.errors import InputError, UsageError
from components.core.fingerprint import digest_weights
from components.training.origin import stored_folder

CHAMPION = "champion"
MODULES = "modules.json"
NO_MODEL = "no modules.json; expected a sentence-transformers folder"
REGISTRY = "models:/"


@dataclass(frozen=True)
class Release:
    """A version of a model that can be fetched into a folder of this machine."""

    name: str
    version: str
    fetch: Callable[[], Path]


def moves_on(spec: str) -> bool:
    """Whether what `spec` names may be another model later."""
    found = tracking.REGISTERED.fullmatch(spec)
    return spec == CHAMPION or (found is not None and found["alias"] is not None)


def find_release(spec: str) -> Release:
    """What `spec` names now: the champion, a folder here or in S3, or a registered model.

    Raises UsageError for what it cannot name, InputError if there is nothing or the place cannot be reached.
    """
    if spec == CHAMPION:
        return _registered(tracking.CHAMPION_URI)
    if spec.startswith(REGISTRY):
        return _registered(spec)
    if storage.is_s3(spec):
        if not storage.exists(storage.join(spec, MODULES)):
            raise InputError(f"--model {spec}: {NO_MODEL}")
        folder = stored_folder(spec.rstrip("/"), "--model")
        return Release(spec.rstrip("/").rpartition("/")[2], _short(digest_weights(folder)), lambda: folder)
    if not storage.is_local(spec):
        raise UsageError(f"--model {spec}: expected champion, a folder, s3://bucket/prefix or models:/NAME@ALIAS")
    folder = storage.local_path(spec)
    if not (folder / MODULES).is_file():
        raise InputError(f"--model {spec}: {NO_MODEL}")
    return Release(folder.resolve().name, _short(digest_weights(folder)), lambda: folder)


def _registered(uri: str) -> Release:
    client, version = tracking.find_version(uri)
    if version is None:
        raise InputError(f"{tracking.store_name()} has no {uri} yet")
    return Release(str(version.name), str(version.version), partial(_fetch, client, version))


def _fetch(client: Any, version: Any) -> Path:
    """The folder of a registered version, its weights compared with what was registered."""
    with tracking.tracking_errors():
        folder = tracking.fetch_model(client, version)
    if digest_weights(folder) != version.tags.get(tracking.WEIGHTS_TAG):
        raise InputError(f"{folder}: other weights than were registered, by their SHA-256")
    return folder


def _short(digest: str) -> str:
    return digest[:12]
