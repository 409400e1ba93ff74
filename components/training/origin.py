"""Where a model's folder comes from that is not on this disk yet: S3, the Hugging Face hub, or the MLflow registry."""

from __future__ import annotations

import importlib
import tempfile
from contextlib import suppress
from pathlib import Path

from components.core import storage, tracking
from components.core.errors import InputError, UsageError
from components.core.fingerprint import digest_json

# What decides vectors, and the weights in the one format that cannot carry code.
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def hub_folder(spec: str, what: str = "encoder") -> Path:
    """The folder of a hub model `org/name` or `org/name@revision`: downloaded, or from the hub's own cache.

    ``what`` it is for leads the messages. Raises UsageError if there is no such model, or none in that cache when the
    hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    importlib.import_module("huggingface_hub.utils").disable_progress_bars()
    name, _, revision = spec.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=HUB_FILES, max_workers=2))
    except GatedRepoError:
        raise UsageError(f"{what} {spec!r}: the hub gives it only to accounts that accepted its terms") from None
    except LocalEntryNotFoundError:
        raise UsageError(f"{what} {spec!r}: no such folder, and the hub cannot be reached to look there") from None
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError):
        raise UsageError(f"{what} {spec!r}: neither a folder nor a public model of the hub") from None
    except Exception as error:  # requests, httpx and the hub each have their own
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{what} {spec!r}: cannot be had from the hub ({line})") from None


def stored_folder(uri: str, what: str = "encoder") -> Path:
    """The folder of a model in S3: a copy below .embedmill/models, made anew when a file there has changed.

    ``what`` it is for leads the message. Raises UsageError if no finished model is there.
    """
    files = storage.list_files(uri)
    if storage.join(uri, "modules.json") not in (info.uri for info in files):
        raise UsageError(f"{what} {uri!r}: no modules.json, so this is no finished model; run the step that makes it")
    target = tracking.DOWNLOADS / digest_json([[info.uri, info.size, info.digest_hint] for info in files])
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as part:
            storage.fetch(uri, Path(part, "model"))
            with suppress(OSError):  # another process has put the same files there
                Path(part, "model").rename(target)
    return target


def registered_folder(spec: str) -> Path:
    """The folder of `models:/NAME@ALIAS` or `models:/NAME/VERSION` in the MLflow registry.

    Raises UsageError if there is none, InputError if the tracking store cannot be reached or the files are gone.
    """
    client, version = tracking.find_version(spec)
    if version is None:
        raise UsageError(f"encoder {spec!r}: {tracking.store_name()} has no such model version")
    with tracking.tracking_errors():
        return tracking.fetch_model(client, version)
