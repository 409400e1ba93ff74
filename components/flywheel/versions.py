"""Versions of the feedback dataset, and the log of claims that makes each of them be trained on exactly once.

All of it lies under one root (a folder, or a prefix below the feedback's own S3 prefix, so that pollers share it):

    files/<sha256>.jsonl      checked rows of a feedback file, named by their content
    rejected/<sha256>.jsonl   its unusable rows, named by the content of the feedback file
    refused/<sha256>.jsonl    the same for a file without a single usable row, which is part of no version
    versions/<digest>.json    a version: every file so far, and the version before it
    claims/00000001.json      the n-th version to be trained on: of any number of pollers, one can create it
    done/00000001.json        the n-th version has been trained on, with the model version that came of it
    seen.json                 a shortcut: digests of feedback files by URI

and of versions that are trained on in a cluster also

    pointers/<digest>.json        what the step `sources` reads: the version and where its files are
    starting/00000001-1-1.json    a poller set out to start the n-th version's first run: of any number, one can
    started/00000001-1.json       that run, by name and id
    results/<run's name>.json     what the run registered: model version and gate
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from components.core import storage
from components.core.errors import InputError
from components.core.fingerprint import canonical_json, digest_bytes, json_document

FORMAT = "embedmill-feedback/1"

Entry = TypeVar("Entry", bound="Claim | Started")


@dataclass(frozen=True)
class FeedbackFile:
    """A checked feedback file: SHA-256 of its normalised bytes, and its rows."""

    sha256: str
    rows: int


@dataclass(frozen=True)
class NewFile:
    """A checked feedback file that is in no version yet; `origin` is the SHA-256 of the file as it arrived."""

    origin: str
    file: FeedbackFile


@dataclass(frozen=True)
class Version:
    """A cumulative, immutable version. `origins` are the digests its files arrived with."""

    parent: str | None
    files: tuple[FeedbackFile, ...]
    origins: tuple[str, ...]

    def encode(self) -> bytes:
        """The bytes that the version is named by."""
        return (canonical_json({"format": FORMAT, **asdict(self)}) + "\n").encode()

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of `encode()`."""
        return digest_bytes(self.encode())

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Claim:
    """The `number`-th version to be trained on, and the id of the poller that took it."""

    number: int
    version: str
    owner: str


@dataclass(frozen=True)
class Started:
    """A run of the pipeline on a claimed version: the how-manieth (from 1), its name and its id in Kubeflow."""

    attempt: int
    name: str
    run_id: str


class Store:
    """Versions and claims below a root URI."""

    def __init__(self, root: str) -> None:
        self.root = root

    def file_uri(self, sha256: str) -> str:
        """Where the checked rows with this digest lie."""
        return storage.join(self.root, "files", f"{sha256}.jsonl")

    def rejected_uri(self, origin: str) -> str:
        """Where the unusable rows of a feedback file lie."""
        return storage.join(self.root, "rejected", f"{origin}.jsonl")

    def refused_uri(self, origin: str) -> str:
        """Where the rows of a feedback file lie that has no usable one."""
        return storage.join(self.root, "refused", f"{origin}.jsonl")

    def add_version(self, version: Version) -> None:
        """Store a version under its digest; one that is there already is the same."""
        storage.create_bytes(self._version_uri(version.digest), version.encode())

    def version(self, digest: str) -> Version:
        """Read a version back. Raises InputError if it was altered."""
        uri = self._version_uri(digest)
        data = storage.read_bytes(uri)
        if digest_bytes(data) != digest:
            raise InputError(f"{uri}: altered since it was written (its SHA-256 is not its name)")
        value = json.loads(data)
        files = tuple(FeedbackFile(**file) for file in value["files"])
        return Version(value["parent"], files, tuple(value["origins"]))

    def claims(self) -> list[Claim]:
        """All claims, oldest first."""
        return [_read(Claim, info.uri) for info in storage.list_files(storage.join(self.root, "claims"))]

    def head(self) -> Claim | None:
        """The newest claim."""
        listed = storage.list_files(storage.join(self.root, "claims"))
        return _read(Claim, listed[-1].uri) if listed else None

    def claim(self, claim: Claim) -> bool:
        """Take a number in the log; False if another poller has it."""
        uri = storage.join(self.root, "claims", f"{claim.number:08d}.json")
        return storage.create_bytes(uri, json_document(asdict(claim)))

    def take_over(self, claim: Claim) -> None:
        """Rewrite an unfinished claim with a new owner."""
        storage.write_bytes(storage.join(self.root, "claims", f"{claim.number:08d}.json"), json_document(asdict(claim)))

    def result(self, number: int) -> dict[str, Any] | None:
        """What came of a claim: `{"version", "model_version", "gate"}`, or None while it is not done."""
        uri = self._done_uri(number)
        if not storage.exists(uri):
            return None
        value: dict[str, Any] = json.loads(storage.read_bytes(uri))
        return value

    def finish(self, claim: Claim, model_version: str | None, gate: str | None) -> None:
        """Mark a claim as trained on."""
        result = {"version": claim.version, "model_version": model_version, "gate": gate}
        storage.write_bytes(self._done_uri(claim.number), json_document(result))

    def current(self, digest: str) -> bytes:
        """The pointer file that the `sources` step reads: the version and where its files are."""
        files = [{"uri": self.file_uri(file.sha256), **asdict(file)} for file in self.version(digest).files]
        return json_document({"version": digest, "files": files})

    def point(self, digest: str) -> str:
        """Store the pointer to a version, which never changes; returns its URI."""
        uri = storage.join(self.root, "pointers", f"{digest}.json")
        storage.create_bytes(uri, self.current(digest))
        return uri

    def turns(self, number: int, attempt: int) -> int:
        """How many pollers have set out to start a run."""
        return len(storage.list_files(storage.join(self.root, "starting", f"{number:08d}-{attempt}-*.json")))

    def take_turn(self, number: int, attempt: int, turn: int, poller: str) -> bool:
        """Set out to start a run, as the `turn`-th to do so (from 1); False if another poller has that turn."""
        uri = storage.join(self.root, "starting", f"{number:08d}-{attempt}-{turn}.json")
        return storage.create_bytes(uri, json_document({"poller": poller}))

    def mark_started(self, number: int, started: Started) -> None:
        """Remember a run."""
        uri = storage.join(self.root, "started", f"{number:08d}-{started.attempt}.json")
        storage.create_bytes(uri, json_document(asdict(started)))

    def last_started(self, number: int) -> Started | None:
        """The last run of a claim, or None while there is none."""
        listed = storage.list_files(storage.join(self.root, "started", f"{number:08d}-*.json"))
        runs = [_read(Started, info.uri) for info in listed]
        return max(runs, key=lambda run: run.attempt, default=None)

    def outcome_uri(self, name: str) -> str:
        """Where the run of this name leaves what it registered."""
        return storage.join(self.root, "results", f"{name}.json")

    def _version_uri(self, digest: str) -> str:
        return storage.join(self.root, "versions", f"{digest}.json")

    def _done_uri(self, number: int) -> str:
        return storage.join(self.root, "done", f"{number:08d}.json")


def extend(parent: Version | None, new: Sequence[NewFile]) -> Version:
    """The version that adds files to `parent`."""
    before = parent or Version(None, (), ())
    files = sorted([*before.files, *(each.file for each in new)], key=lambda file: file.sha256)
    origins = sorted([*before.origins, *(each.origin for each in new)])
    return Version(parent.digest if parent else None, tuple(files), tuple(origins))


def _read(model: type[Entry], uri: str) -> Entry:
    try:
        return model(**json.loads(storage.read_bytes(uri)))
    except (ValueError, TypeError) as error:
        raise InputError(f"{uri}: not a {model.__name__.lower()} entry of the flywheel ({error})") from None
