"""The step `ingest`: a shard for each part of a source, first for training, then for evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from components.core import storage
from components.core.build import ShardOutput, ShardTask, build_ahead, build_dataset
from components.core.errors import InputError
from components.core.fingerprint import code_digest
from components.core.manifest import MANIFEST, Dataset
from components.core.sources import RESOLVE, IngestParams, ResolvedSource, read_sources
from components.core.step import Context
from components.ingest.files import FilePart, file_parts, file_shards
from components.ingest.pydoc import PydocPart, pydoc_parts, pydoc_shard


def run(ctx: Context) -> None:
    """Make both datasets, or some shards of them.

    Raises InputError for a source that cannot be read, is empty or gives no record.
    """
    params = ctx.section(IngestParams)
    sources = read_sources(ctx.inputs["sources"])
    listed = [entry for entry, _ in groupby(source.entry for source in sources) if entry in params.sources]
    if listed != list(params.sources):
        raise InputError(f"{ctx.inputs['sources']}: does not list the present ingest.sources; run `{RESOLVE}`")
    datasets = []
    for side, held_out in (("output", False), ("heldout", True)):
        tasks = shard_tasks(sources, held_out, params.shard_bytes)
        if ctx.part:
            tasks = ctx.part.own(tasks)
        progress = ctx.progress(f"ingest {side}", sum(task.size for task in tasks), "MB")
        fingerprint = code_digest("components.core", "components.ingest")
        given = (ctx.outputs[side], "ingest", tasks, make_shards, fingerprint, ctx.workers, progress)
        if ctx.part:
            build_ahead(*given)
        else:
            datasets.append(build_dataset(*given))
    if ctx.part:
        return
    try:
        check_sources(sources, datasets)
    except InputError:
        storage.remove(storage.join(ctx.outputs["output"], MANIFEST))  # nothing downstream may take it for finished
        raise
    train, held = datasets
    quarantined = sum(sum(reasons.values()) for reasons in train.ledger.quarantined.values())
    ctx.log(f"{train.rows:,} records to train on, {held.rows:,} held out, {quarantined:,} rows quarantined")


def shard_tasks(sources: Sequence[ResolvedSource], held_out: bool, shard_bytes: int) -> Sequence[ShardTask]:
    """The units of work for one side of the holdout, in the order of the sources."""
    parts: list[tuple[str, PydocPart | FilePart]] = []
    for source in sources:
        if held_out and not source.params.holdout:
            continue
        parts += pydoc_parts(source, held_out) if source.params.is_pydoc else file_parts(source, held_out, shard_bytes)
    return [ShardTask(f"{number:05d}", key, part, size=part.megabytes) for number, (key, part) in enumerate(parts)]


def make_shards(task: ShardTask) -> Iterable[ShardOutput]:
    """Read one part, whatever kind of source it belongs to."""
    if isinstance(task.payload, PydocPart):
        return [pydoc_shard(task.payload)]
    return file_shards(task.payload, task.position)


def check_sources(sources: Sequence[ResolvedSource], datasets: Sequence[Dataset]) -> None:
    """Raise InputError for a source without rows, or without a single one that could be used."""
    rows_in: Counter[str] = sum((dataset.ledger.rows_in for dataset in datasets), Counter())
    rows_out: Counter[str] = sum((dataset.ledger.rows_out for dataset in datasets), Counter())
    for source in sources:
        uri, title = source.params.uri, source.params.title
        names = [name for name in rows_in if name == title or (source.params.is_pydoc and name.startswith(f"{title}."))]
        if not any(rows_in[name] for name in names):
            raise InputError(f"{uri}: source {title!r} is empty: not one row (inputs: {len(source.inputs)})")
        if not any(rows_out[name] for name in names):
            raise InputError(f"{uri}: {_why_nothing(title, datasets[0])}")


def _why_nothing(title: str, dataset: Dataset) -> str:
    ledger = dataset.ledger
    reasons = ledger.quarantined.get(title, Counter()) + ledger.dropped.get(title, Counter())
    reason, rows = min(reasons.items(), key=lambda item: (-item[1], item[0]))
    kinds = ("quarantined", "dropped")
    shard = next(each for each in dataset.shards if any(reason in each.ledger[kind].get(title, ()) for kind in kinds))
    rejected = dataset.read_rejected([shard]).to_pylist()
    example = next(row for row in rejected if (row["source"], row["reason"]) == (title, reason))
    return (
        f"no row of source {title!r} can be used; most often {reason} ({rows:,} of {reasons.total():,}), "
        f"first in row {example['offset']} of {example['detail']}"
    )
