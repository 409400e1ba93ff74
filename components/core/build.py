"""How a dataset is made: tasks give shards, each leaves a receipt, and the manifest is written last.

A task is the unit of work and gives one or more shards; each finished shard leaves a receipt under `_work/`, so that a
step that runs again makes only what has none, and goes on in the middle of a task.

Several runs may make the same dataset at the same place, and others may read it meanwhile: equal inputs give equal
bytes, files are written whole, and a manifest is taken away only by one that writes a shard that it does not list.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.core import storage
from components.core.errors import InputError, MissingFile
from components.core.execute import end_if_orphaned, map_ordered
from components.core.fingerprint import digest_bytes, digest_json, json_document
from components.core.ledger import Ledger
from components.core.manifest import FORMAT, MANIFEST, Dataset, Shard, rejected_uri, shard_uri
from components.core.progress import Progress
from components.core.records import REJECTED_SCHEMA, SCHEMA

WORK = "_work"
PREVIOUS = "previous-manifest.json"


@dataclass(frozen=True)
class ShardTask:
    """One unit of work. `key` is a digest of everything its content depends on beyond the step's fingerprint.

    `position` is how far an interrupted run has come in it, as its last output said: the work goes on after that, and
    may find nothing left. `size` is its share of the step's progress, in the unit of the bar.
    """

    name: str
    key: str
    payload: Any
    position: int = 0
    size: float = 1.0


@dataclass(frozen=True)
class ShardOutput:
    """One shard that a task gives: records kept, rows rejected, rows that came in by source, summable statistics.

    `position` says how far into its task's input this output reaches, in a unit of the task's own; a task with several
    outputs must let it rise from one to the next. `progress` says how much of the task's size is done then.
    """

    kept: pa.Table
    rejected: pa.Table
    rows_in: Mapping[str, int]
    stats: Mapping[str, float] = field(default_factory=dict)
    position: int = 0
    progress: float = 0.0


Work = Callable[[ShardTask], Iterable[ShardOutput]]


def build_dataset(
    uri: str,
    step: str,
    tasks: Sequence[ShardTask],
    work: Work,
    fingerprint: str,
    workers: int = 1,
    progress: Progress | None = None,
    made_from: str | None = None,
    reports: Mapping[str, str] | None = None,
) -> Dataset:
    """Run `work` for what is not finished yet of every task, then commit the dataset; returns it opened.

    The first output of a task becomes the shard of its name, the next ones `NAME-00001` and so on; each is written as
    it comes, so that one is in memory at a time. `fingerprint` digests the step's parameters and code; with each task's
    key it decides what may be kept from an earlier run. `work` must pickle when `workers` > 1. The bytes do not depend
    on `workers`, on interruptions or on what was built ahead. `made_from` digests all that they do depend on, where
    that is known before the tasks are (see `open_finished`); `reports` are texts to keep in the manifest.
    """
    shards = _make_shards(uri, step, tasks, work, fingerprint, workers, progress)
    return _commit(uri, step, fingerprint, shards, made_from, reports or {})


def build_ahead(
    uri: str,
    step: str,
    tasks: Sequence[ShardTask],
    work: Work,
    fingerprint: str,
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Run `work` for some of the tasks that `build_dataset` will be given, which then finds them done."""
    _make_shards(uri, step, tasks, work, fingerprint, workers, progress)


def open_finished(uri: str, step: str, fingerprint: str, made_from: str, workers: int) -> Dataset | None:
    """The dataset at `uri`, if it has been made by this step from just this and none of its shards is damaged."""
    try:
        found = Dataset.open(uri)
    except InputError:
        return None
    if (found.step, found.fingerprint, found.made_from) != (step, fingerprint, made_from):
        return None
    if not all(map_ordered(partial(_intact, uri), found.shards, min(workers, max(1, len(found.shards))))):
        return None
    _tidy(uri)
    return found


def find_or_make(find: Callable[[], Dataset | None], make: Callable[[], Dataset | None]) -> Dataset | None:
    """What `find` finds finished, else what `make` returns: None if that was only a part of it.

    Another run with the same inputs may finish meanwhile and tidy up files that this one reads: then it finds that.
    """
    output = find()
    if output is None:
        try:
            output = make()
        except MissingFile:
            output = find()
            if output is None:
                raise
    return output


def _make_shards(
    uri: str,
    step: str,
    tasks: Sequence[ShardTask],
    work: Work,
    fingerprint: str,
    workers: int,
    progress: Progress | None,
) -> list[Shard]:
    """The shards of all tasks in order, kept or made."""
    names = {task.name for task in tasks}
    if len(names) != len(tasks):
        raise AssertionError(f"{step}: two tasks have the same name")
    receipts = _list_receipts(uri)
    previous = _previous(uri, names)
    jobs = (_Job(task, _receipts_of(task.name, receipts), tuple(previous.get(task.name, ()))) for task in tasks)
    run = partial(_run_task, uri=uri, work=work, fingerprint=fingerprint)
    shards: list[Shard] = []
    left = {task.name for task in tasks}
    with progress or Progress(step, sum(task.size for task in tasks), "shards") as bar:
        bar.follow(partial(_begun, uri, left, {}))
        for task, made in zip(tasks, map_ordered(run, jobs, min(workers, max(1, len(tasks)))), strict=True):
            shards += made
            left.discard(task.name)
            bar.advance(task.size)
    return shards


@dataclass(frozen=True)
class _Job:
    """A task with what earlier runs left of it: file names of receipts, and shards of the last committed manifest.

    `receipts` is None where the worker has to look itself, because another one has died over the task.
    """

    task: ShardTask
    receipts: tuple[str, ...] | None
    previous: tuple[Shard, ...]

    @property
    def name(self) -> str:
        return self.task.name

    def again(self) -> _Job:
        return replace(self, receipts=None)


def _run_task(job: _Job, uri: str, work: Work, fingerprint: str) -> list[Shard]:
    """The shards of a task in order: kept ones, as far as their bytes are intact, then those still to make."""
    task, mark = job.task, digest_json([fingerprint, job.task.key])
    found, complete = _finished(uri, job, mark)
    shards = []
    for shard in found:
        if not _intact(uri, shard):
            break
        shards.append(shard)
    if complete and len(shards) == len(found):
        return shards
    if shards and not shards[-1].position:  # its work does not say how far it came
        shards = []
    outputs = work(replace(task, position=shards[-1].position if shards else 0))
    for output, is_last in _with_last(outputs):
        if shards and output.position <= shards[-1].position:
            raise AssertionError(f"{task.name}: output {len(shards)} does not reach beyond the one before it")
        shards.append(_write_shard(uri, task.name, len(shards), mark, output))
        _write_receipt(uri, shards[-1], is_last, output.progress)
    if not shards:
        raise AssertionError(f"{task.name}: the work gave no output")
    if not isinstance(outputs, Sequence):  # whether one was the last is known only now
        _write_receipt(uri, shards[-1], True)
    return shards


def _with_last(outputs: Iterable[ShardOutput]) -> Iterator[tuple[ShardOutput, bool]]:
    """Each output, and whether it is known to be the last: a generator only tells when it ends."""
    last = len(outputs) - 1 if isinstance(outputs, Sequence) else None
    for index, output in enumerate(outputs):
        yield output, index == last


def _write_shard(uri: str, task: str, index: int, fingerprint: str, output: ShardOutput) -> Shard:
    kept, rejected = _table_bytes(output.kept, SCHEMA), _table_bytes(output.rejected, REJECTED_SCHEMA)
    ledger = Ledger.of_shard(output.rows_in, output.kept, output.rejected)
    ledger.check()
    shard = Shard(
        name=_shard_name(task, index),
        task=task,
        position=output.position,
        rows=len(output.kept),
        bytes=len(kept),
        sha256=digest_bytes(kept),
        rejected_rows=len(output.rejected),
        rejected_bytes=len(rejected),
        rejected_sha256=digest_bytes(rejected),
        fingerprint=fingerprint,
        ledger=ledger.as_dict(),
        stats=dict(sorted(output.stats.items())),
    )
    end_if_orphaned()
    _open_for_writing(uri, lambda manifest: shard in _listed(manifest))
    storage.write_bytes(shard_uri(uri, shard.name), kept)
    storage.write_bytes(rejected_uri(uri, shard.name), rejected)
    return shard


def _write_receipt(uri: str, shard: Shard, is_last: bool, progress: float = 0.0) -> None:
    receipt = {"shard": asdict(shard), "last": is_last, "progress": progress}
    storage.write_bytes(storage.join(uri, WORK, f"{shard.name}.json"), json_document(receipt))


def _finished(uri: str, job: _Job, fingerprint: str) -> tuple[Sequence[Shard], bool]:
    """What earlier runs finished of a task, in order, and whether that is all of it."""
    found: list[Shard] = []
    previous = job.previous
    receipts = _receipts_of(job.task.name, _list_receipts(uri)) if job.receipts is None else job.receipts
    for name in receipts:
        try:
            receipt = json.loads(storage.read_bytes(storage.join(uri, WORK, name)))
            shard, is_last = Shard(**receipt["shard"]), bool(receipt["last"])
        except MissingFile:  # another run has committed the dataset since they were listed
            found, previous = [], tuple(_previous(uri, {job.task.name}).get(job.task.name, ()))
            break
        except (ValueError, KeyError, TypeError):
            break  # an altered receipt vouches for nothing
        if shard.fingerprint != fingerprint:
            break
        found.append(shard)
        if is_last:
            return found, True
    if not found and all(shard.fingerprint == fingerprint for shard in previous):
        return previous, bool(previous)
    return found, False


def _commit(
    uri: str, step: str, fingerprint: str, shards: Sequence[Shard], made_from: str | None, reports: Mapping[str, str]
) -> Dataset:
    ledger = Ledger.sum(Ledger.from_dict(shard.ledger) for shard in shards)
    ledger.check()
    if len({shard.name for shard in shards}) != len(shards):
        raise AssertionError(f"{step}: a task is named like a later shard of another")
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
        **({"made_from": made_from} if made_from else {}),
        **({"reports": dict(reports)} if reports else {}),
    }
    document = json_document(manifest)
    _open_for_writing(uri, lambda manifest: manifest == document)
    wanted = {shard_uri(uri, shard.name) for shard in shards} | {rejected_uri(uri, shard.name) for shard in shards}
    for info in [*storage.list_files(storage.join(uri, "shards")), *storage.list_files(storage.join(uri, "rejected"))]:
        if info.uri not in wanted:
            storage.remove(info.uri)
    if _read(storage.join(uri, MANIFEST)) != document:
        storage.write_bytes(storage.join(uri, MANIFEST), document)
    _tidy(uri)
    return Dataset.open(uri)


def _previous(uri: str, tasks: Collection[str]) -> dict[str, list[Shard]]:
    """The shards by task of the dataset that was last committed here, whole or while it is being replaced."""
    for name in (MANIFEST, f"{WORK}/{PREVIOUS}", MANIFEST):  # another run may put it back between the first two
        shards = _listed(_read(storage.join(uri, name)))
        if shards:
            by_task: dict[str, list[Shard]] = {}
            for shard in shards:
                if shard.task in tasks:
                    by_task.setdefault(shard.task, []).append(shard)
            return by_task
    return {}


def _listed(manifest: bytes | None) -> list[Shard]:
    """The shards that a manifest lists; an altered one vouches for nothing: every shard is made again."""
    try:
        return [Shard(**listed) for listed in json.loads(manifest)["shards"]] if manifest else []
    except (ValueError, KeyError, TypeError):
        return []


def _read(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except MissingFile:
        return None


def _list_receipts(uri: str) -> set[str]:
    return {info.uri.rpartition("/")[2] for info in storage.list_files(storage.join(uri, WORK))}


def _begun(uri: str, tasks: Collection[str], known: dict[str, float]) -> float:
    """How much of the unfinished `tasks` is done, by the last receipt of each; `known` keeps what was read of them."""
    listed, done = _list_receipts(uri), 0.0
    for task in list(tasks):
        for name in _receipts_of(task, listed)[-1:]:
            if name not in known:
                known[name] = float(json.loads(storage.read_bytes(storage.join(uri, WORK, name))).get("progress", 0))
            done += known[name]
    return done


def _receipts_of(task: str, listed: Collection[str]) -> tuple[str, ...]:
    """File names of the receipts that `listed` holds for a task, in the order of its outputs."""
    names: list[str] = []
    while (name := f"{_shard_name(task, len(names))}.json") in listed:
        names.append(name)
    return tuple(names)


def _open_for_writing(uri: str, agrees: Callable[[bytes], bool]) -> None:
    """Take the manifest away before shards change, so that a half-made dataset cannot be read.

    It stays if it agrees with the change: then another run has made the same, or this one mends what it lists.
    """
    path = storage.join(uri, MANIFEST)
    manifest = _read(path) if storage.exists(path) else None
    if manifest is not None and not agrees(manifest):
        storage.write_bytes(storage.join(uri, WORK, PREVIOUS), manifest)
        storage.remove(path)


def _intact(uri: str, shard: Shard) -> bool:
    pairs = ((shard_uri(uri, shard.name), shard.sha256), (rejected_uri(uri, shard.name), shard.rejected_sha256))
    try:
        return all(digest_bytes(storage.read_bytes(path)) == sha256 for path, sha256 in pairs)
    except InputError:  # not there, or not readable
        return False


def _tidy(uri: str) -> None:
    """Remove receipts, and unfinished files that a killed writer left behind, of a dataset that is committed."""
    storage.remove_tree(storage.join(uri, WORK))
    if not storage.is_s3(uri):
        for folder, _, names in os.walk(storage.local_path(uri)):  # past folders that an equal run removes meanwhile
            for name in names:
                if name.startswith(".") and name.endswith(".tmp"):
                    Path(folder, name).unlink(missing_ok=True)


def _shard_name(task: str, index: int) -> str:
    return f"{task}-{index:05d}" if index else task


def _table_bytes(table: pa.Table, schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table.select(schema.names).cast(schema), buffer, compression="zstd")
    return buffer.getvalue()
