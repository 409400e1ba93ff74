"""One look at the feedback: what is new becomes a version, and a version that was claimed is trained on.

The order of writes is what makes each batch count once. A version is written before it is claimed, a claim is created
before anything is trained, and it is marked done after the training has ended well. A poller that dies in between
leaves a claim that is not done; the next one goes on with that claim before it looks for anything new.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Protocol

from components.core import lock, storage
from components.core.errors import UsageError
from components.core.fingerprint import canonical_json, digest_bytes
from components.flywheel.feedback import parse_feedback
from components.flywheel.versions import Claim, FeedbackFile, NewFile, Store, Version, extend

LOCK = ".embedmill/locks/flywheel.lock"
SEEN = ".embedmill/flywheel/seen.json"
LOCAL_ROOT = "data/feedback"
# Below an S3 prefix of feedback, so that every poller of the prefix finds the same log of claims.
SHARED_ROOT = "_flywheel"
SUFFIX = ".jsonl"

Log = Callable[[str], None]


class Trainer(Protocol):
    """What trains on a claimed version: the chain in this folder, or a run of the pipeline."""

    def owner(self) -> str:
        """Who claims: what this poller may go on with carries the same name."""

    def train(self, store: Store, claim: Claim, log: Log, resumed: bool) -> bool:
        """Train on a claim, made just now or left by an earlier poll; whether it is done now, and marked so.

        Raises ChainFailed if it cannot get done; the claim then stays for the next poll.
        """


def open_store(feedback: str) -> Store:
    """The store that belongs to a feedback folder or prefix."""
    return Store(storage.join(feedback, SHARED_ROOT) if storage.is_s3(feedback) else LOCAL_ROOT)


def poll(feedback: str, log: Log, trainer: Trainer, take_over: bool = False) -> int:
    """Train on whatever is claimed and not done, then on whatever is new. Returns how many batches got done.

    Another poller at work in this project is no error: it does the work. `take_over` finishes a claim of a poller
    elsewhere that will not come back. Raises ChainFailed if the training fails; the claim then stays for the next poll.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock.hold(LOCK, "the flywheel"))
        except UsageError as busy:
            log(f"{busy}; nothing done here")
            return 0
        store, done = open_store(feedback), 0
        head = store.head()
        if head is not None and store.result(head.number) is None:
            head = _take(store, head, trainer.owner(), take_over)
            if head is None:
                log("the last batch was claimed by a poller elsewhere and is not done; --take-over if that one is gone")
                return 0
            if not trainer.train(store, head, log, resumed=True):
                return done
            done += 1
        claim = _claim_new(feedback, store, head, trainer.owner(), log)
        if claim is not None:
            done += trainer.train(store, claim, log, resumed=False)
        return done


def _take(store: Store, claim: Claim, owner: str, take_over: bool) -> Claim | None:
    """The unfinished claim if it is ours to finish. In a folder it is: the lock says that no other poller lives."""
    if not storage.is_s3(store.root) or claim.owner == owner:
        return claim
    if not take_over:
        return None
    mine = replace(claim, owner=owner)
    store.take_over(mine)
    return mine


def _claim_new(feedback: str, store: Store, head: Claim | None, owner: str, log: Log) -> Claim | None:
    parent = store.version(head.version) if head else None
    new = _collect(feedback, store, parent, log)
    if not new:
        log(f"{feedback}: nothing new")
        return None
    version = extend(parent, new)
    store.add_version(version)
    claim = Claim(head.number + 1 if head else 1, version.digest, owner)
    if not store.claim(claim):
        log(f"batch {claim.number} was claimed by another poller a moment ago; nothing done here")
        return None
    files = "1 new file" if len(new) == 1 else f"{len(new)} new files"
    log(f"batch {claim.number}: {files}, {version.rows} rows in all, version {version.digest[:12]}")
    return claim


def _collect(feedback: str, store: Store, parent: Version | None, log: Log) -> list[NewFile]:
    """Check every file whose content is in no version yet; keep its usable rows, and its unusable ones apart."""
    root = storage.join(store.root, "")
    known = {file.sha256 for file in parent.files} if parent else set()
    origins = set(parent.origins) if parent else set()
    shortcut = storage.join(store.root, "seen.json") if storage.is_s3(store.root) else SEEN
    before = _read_seen(shortcut)
    seen: dict[str, list[str]] = {}
    new: list[NewFile] = []
    for info in storage.list_files(feedback):
        if not info.uri.endswith(SUFFIX) or info.uri.startswith(root):
            continue
        hint = f"{info.size} {info.digest_hint}"
        last = before.get(info.uri, ["", ""])
        if last[0] == hint and (last[1] in origins or storage.exists(store.refused_uri(last[1]))):
            seen[info.uri] = last
            continue
        data = storage.read_bytes(info.uri)
        origin = digest_bytes(data)
        seen[info.uri] = [hint, origin]
        if origin in origins or storage.exists(store.refused_uri(origin)):
            continue
        file = _check(info.uri, data, origin, store, log)
        if file is not None and file.sha256 not in known:
            new.append(NewFile(origin, file))
            known.add(file.sha256)
            origins.add(origin)
    if seen != before:
        storage.write_bytes(shortcut, canonical_json(seen).encode())
    return new


def _check(uri: str, data: bytes, origin: str, store: Store, log: Log) -> FeedbackFile | None:
    feedback = parse_feedback(data)
    for bad in feedback.bad:
        log(f"{uri}, line {bad.line}: {bad.reason}; the row is set aside")
    if not feedback.rows:
        storage.create_bytes(store.refused_uri(origin), feedback.encode_bad())
        log(f"{uri}: no usable row; the file is refused")
        return None
    if feedback.bad:
        storage.create_bytes(store.rejected_uri(origin), feedback.encode_bad())
    content = feedback.encode()
    file = FeedbackFile(digest_bytes(content), len(feedback.rows))
    storage.create_bytes(store.file_uri(file.sha256), content)
    return file


def _read_seen(uri: str) -> dict[str, list[str]]:
    """Digests of files already read, by URI, each with the token that changes when the file does."""
    if not storage.exists(uri):
        return {}
    value: dict[str, list[str]] = json.loads(storage.read_bytes(uri))
    return value
