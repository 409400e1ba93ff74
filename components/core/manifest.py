"""Datasets: Parquet shards, the rejected rows beside them, and a manifest that is written last.

A folder or prefix without `manifest.json` is no dataset. A shard is the unit of work, retry and resume: each finished
shard leaves a receipt under `_work/`, and a step that runs again redoes only shards without one. Nothing in a dataset
depends on time, host, worker count or the number of restarts.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.core import storage
from components.core.errors import InputError
from components.core.execute import map_ordered
from components.core.fingerprint import digest_bytes, digest_json
from components.core.ledger import Ledger
from components.core.progress import Progress
from components.core.records import REJECTED_SCHEMA, SCHEMA

FORMAT = "embedmill-dataset/1"
MANIFEST = "manifest.json"
WORK = "_work"


@dataclass(frozen=True)
class ShardTask:
    """One unit of work. `key` is a digest of everything its content depends on beyond the step's fingerprint."""

    name: str
    key: str
    payload: Any


@dataclass(frozen=True)
class ShardOutput:
    """What one unit of work gives: records kept, rows rejected, rows that came in by source, summable statistics."""

    kept: pa.Table
    rejected: pa.Table
    rows_in: Mapping[str, int]
    stats: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """A finished shard as the manifest lists it; `name` has no suffix, sizes are in bytes, digests are SHA-256."""

    name: str
    rows: int
    bytes: int
    sha256: str
    rejected_rows: int
    rejected_bytes: int
    rejected_sha256: str
    fingerprint: str
    ledger: dict[str, Any]
    stats: dict[str, float]


class Dataset:
    """A committed dataset. Reading verifies each shard against the manifest."""

    def __init__(self, uri: str, manifest: Mapping[str, Any], digest: str) -> None:
        self.uri = uri
        self.digest = digest
        self.step: str = manifest["step"]
        self.shards = [Shard(**shard) for shard in manifest["shards"]]
        self.stats: dict[str, float] = manifest["stats"]
        self.ledger = Ledger.from_dict(manifest["ledger"])

    @classmethod
    def open(cls, uri: str) -> Dataset:
        """Open a dataset. Raises InputError if there is no manifest or it is not one of ours."""
        path = storage.join(uri, MANIFEST)
        if not storage.exists(path):
            raise InputError(f"{uri}: no {MANIFEST}, so this is no finished dataset; run the step that makes it")
        data = storage.read_bytes(path)
        try:
            manifest = json.loads(data)
            if manifest["format"] != FORMAT:
                raise InputError(f"{path}: format is {manifest['format']!r}, expected {FORMAT!r}")
            return cls(uri, manifest, digest_bytes(data))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a dataset manifest ({type(error).__name__}: {error})") from None

    @cached_property
    def rows(self) -> int:
        """Number of records."""
        return sum(shard.rows for shard in self.shards)

    def read_shard(self, shard: Shard, columns: Sequence[str] | None = None, verify: bool = True) -> pa.Table:
        """The records of one shard. Raises InputError if its bytes are not those that the manifest vouches for."""
        return _read_table(_shard_uri(self.uri, shard.name), shard.sha256 if verify else None, columns)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All records, shard by shard in order."""
        schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *(self.read_shard(shard, columns) for shard in self.shards)])

    def read_rejected(self) -> pa.Table:
        """All rejected rows, shard by shard in order."""
        tables = [_read_table(_rejected_uri(self.uri, shard.name), shard.rejected_sha256) for shard in self.shards]
        return pa.concat_tables([REJECTED_SCHEMA.empty_table(), *tables])


def build_dataset(
    uri: str,
    step: str,
    tasks: Sequence[ShardTask],
    work: Callable[[ShardTask], ShardOutput],
    fingerprint: str,
    workers: int = 1,
    progress: Progress | None = None,
) -> Dataset:
    """Run `work` for every task whose shard is not finished yet, then commit the dataset; returns it opened.

    `fingerprint` digests the step's parameters and code; with each task's key it decides what may be kept from an
    earlier run. `work` must pickle when `workers` > 1. The bytes do not depend on `workers` or on interruptions.
    """
    names = [task.name for task in tasks]
    if len(set(names)) != len(names):
        raise AssertionError(f"{step}: two shards have the same name")
    done = _finished(uri)
    _open_for_writing(uri)
    pending = []
    receipts: dict[str, Shard] = {}
    for task in tasks:
        receipt = done.get(task.name)
        if receipt and receipt.fingerprint == _shard_fingerprint(fingerprint, task) and _intact(uri, receipt):
            receipts[task.name] = receipt
        else:
            pending.append(task)
    run = partial(_run_shard, uri=uri, work=work, fingerprint=fingerprint, parent=os.getpid())
    with progress or Progress(step, len(tasks), "shards") as bar:
        bar.advance(len(receipts))
        for receipt in map_ordered(run, pending, min(workers, max(1, len(pending)))):
            receipts[receipt.name] = receipt
            bar.advance()
    return _commit(uri, step, fingerprint, [receipts[name] for name in names])


def _run_shard(
    task: ShardTask, uri: str, work: Callable[[ShardTask], ShardOutput], fingerprint: str, parent: int
) -> Shard:
    output = work(task)
    kept, rejected = _table_bytes(output.kept, SCHEMA), _table_bytes(output.rejected, REJECTED_SCHEMA)
    ledger = Ledger.of_shard(output.rows_in, output.kept, output.rejected)
    ledger.check()
    shard = Shard(
        name=task.name,
        rows=len(output.kept),
        bytes=len(kept),
        sha256=digest_bytes(kept),
        rejected_rows=len(output.rejected),
        rejected_bytes=len(rejected),
        rejected_sha256=digest_bytes(rejected),
        fingerprint=_shard_fingerprint(fingerprint, task),
        ledger=ledger.as_dict(),
        stats=dict(sorted(output.stats.items())),
    )
    if os.getpid() != parent and os.getppid() != parent:
        raise SystemExit(1)  # the step was killed: an orphaned worker must not write beside the step that runs now
    storage.write_bytes(_shard_uri(uri, task.name), kept)
    storage.write_bytes(_rejected_uri(uri, task.name), rejected)
    storage.write_bytes(storage.join(uri, WORK, f"{task.name}.json"), _json_bytes(asdict(shard)))
    return shard


def _commit(uri: str, step: str, fingerprint: str, shards: Sequence[Shard]) -> Dataset:
    ledger = Ledger.sum(Ledger.from_dict(shard.ledger) for shard in shards)
    ledger.check()
    stats: dict[str, float] = {}
    for shard in shards:
        for key, value in shard.stats.items():
            stats[key] = stats.get(key, 0) + value
    manifest = {
        "format": FORMAT,
        "step": step,
        "fingerprint": fingerprint,
        "rows": sum(shard.rows for shard in shards),
        "ledger": ledger.as_dict(),
        "stats": dict(sorted(stats.items())),
        "shards": [asdict(shard) for shard in shards],
    }
    wanted = {_shard_uri(uri, shard.name) for shard in shards} | {_rejected_uri(uri, shard.name) for shard in shards}
    for info in [*storage.list_files(storage.join(uri, "shards")), *storage.list_files(storage.join(uri, "rejected"))]:
        if info.uri not in wanted:
            storage.remove(info.uri)
    _remove_parts(uri)
    storage.write_bytes(storage.join(uri, MANIFEST), _json_bytes(manifest))
    _remove_work(uri)
    return Dataset.open(uri)


def _finished(uri: str) -> dict[str, Shard]:
    """Shards that an earlier run finished: those of a committed manifest, then receipts of an interrupted run."""
    done: dict[str, Shard] = {}
    for name in (MANIFEST, f"{WORK}/previous.json"):
        path = storage.join(uri, name)
        if storage.exists(path):
            try:
                listed = json.loads(storage.read_bytes(path))["shards"]
                done.update({shard["name"]: Shard(**shard) for shard in listed})
            except (ValueError, KeyError, TypeError):
                continue  # an altered manifest vouches for nothing: every shard is made again
    for info in storage.list_files(storage.join(uri, WORK)):
        if not info.uri.endswith("/previous.json"):
            receipt = Shard(**json.loads(storage.read_bytes(info.uri)))
            done[receipt.name] = receipt
    return done


def _open_for_writing(uri: str) -> None:
    """Take the manifest away while shards change, so that a half-made dataset cannot be read."""
    path = storage.join(uri, MANIFEST)
    if storage.exists(path):
        storage.write_bytes(storage.join(uri, WORK, "previous.json"), storage.read_bytes(path))
        storage.remove(path)


def _intact(uri: str, shard: Shard) -> bool:
    pairs = ((_shard_uri(uri, shard.name), shard.sha256), (_rejected_uri(uri, shard.name), shard.rejected_sha256))
    return all(storage.exists(path) and digest_bytes(storage.read_bytes(path)) == sha256 for path, sha256 in pairs)


def _remove_work(uri: str) -> None:
    for info in storage.list_files(storage.join(uri, WORK)):
        storage.remove(info.uri)
    if not storage.is_s3(uri):
        folder = storage.local_path(uri) / WORK
        for path in sorted(folder.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        if folder.is_dir():
            folder.rmdir()


def _remove_parts(uri: str) -> None:
    """Remove unfinished files that a killed writer left behind."""
    if not storage.is_s3(uri):
        for path in storage.local_path(uri).rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def _shard_fingerprint(fingerprint: str, task: ShardTask) -> str:
    return digest_json([fingerprint, task.key])


def _shard_uri(uri: str, name: str) -> str:
    return storage.join(uri, "shards", f"{name}.parquet")


def _rejected_uri(uri: str, name: str) -> str:
    return storage.join(uri, "rejected", f"{name}.parquet")


def _read_table(uri: str, sha256: str | None, columns: Sequence[str] | None = None) -> pa.Table:
    data = storage.read_bytes(uri)
    if sha256 is not None and digest_bytes(data) != sha256:
        raise InputError(f"{uri}: altered since its manifest was written (SHA-256 differs); run the step that makes it")
    return pq.read_table(pa.BufferReader(data), columns=None if columns is None else list(columns))


def _table_bytes(table: pa.Table, schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.select(schema.names).cast(schema), buffer, compression="zstd")
    return buffer.getvalue()


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
