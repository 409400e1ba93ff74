"""The filter step: judge every shard by itself, let rows of all shards meet, then write what is left.

Judgements of finished shards wait under `_judgements/` inside the output until the dataset is committed, named by what
they depend on, so that a killed step goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.core import storage
from components.core.errors import InputError
from components.core.execute import end_if_orphaned, map_ordered
from components.core.fingerprint import code_digest, digest_json
from components.core.manifest import Dataset, Shard, ShardOutput, ShardTask, build_dataset
from components.core.records import SCHEMA, reject_records
from components.core.step import Context
from components.core.suite import EvaluateParams, load_suite, suite_texts
from components.core.textnorm import normalise_key
from components.filter import contamination, duplicates, funnel
from components.filter.contamination import Reference
from components.filter.judgement import Judgement, judge
from components.filter.normalise import clean_column, clean_table
from components.filter.params import FilterParams
from components.filter.verdict import CODES, KEPT, REASONS, Verdict

JUDGEMENTS = "_judgements"


def run(context: Context) -> None:
    """Filter `ingest` into `output`. Raises InputError if there is nothing to filter or nothing left."""
    params = context.section(FilterParams)
    ingest = Dataset.open(context.inputs["ingest"])
    if not ingest.rows:
        raise InputError(f"{ingest.uri}: no rows to filter")
    fingerprint = digest_json([params.model_dump(mode="json"), code_digest("components.core", "components.filter")])
    area = storage.join(context.outputs["output"], JUDGEMENTS)
    reference = _reference(context, params)
    judgements = _judge_shards(context, params, ingest, reference, area, digest_json([fingerprint, reference.digest]))

    _meet(judgements, ingest, params)
    counts: dict[str, Counter[int]] = {}
    for judgement in judgements:
        for source, code in zip(judgement.sources, judgement.verdict.codes.tolist(), strict=True):
            counts.setdefault(source, Counter())[code] += 1
    total = sum(counts.values(), Counter())
    storage.write_bytes(context.outputs["funnel"], funnel.funnel_csv(total))
    _check_sources(context, ingest, counts)

    tasks = [
        ShardTask(shard.name, digest_json([shard.sha256, work.digest]), work)
        for shard, work in zip(ingest.shards, map(_ShardWork.of, ingest.shards, judgements), strict=True)
    ]
    progress = context.progress("write", len(tasks), "shards")
    work = partial(_write_shard, ingest=ingest)
    build_dataset(context.outputs["output"], "filter", tasks, work, fingerprint, context.workers, progress)
    _remove(area)


def _reference(context: Context, params: FilterParams) -> Reference:
    if not params.contamination.exact:
        return Reference.of((), None)
    tasks = load_suite(context.section(EvaluateParams).suite, context.inputs["heldout"])
    return Reference.of(suite_texts(tasks), params.contamination.near)


def _judge_shards(
    context: Context, params: FilterParams, ingest: Dataset, reference: Reference, area: str, fingerprint: str
) -> list[Judgement]:
    reference_uri = storage.join(area, f"reference-{reference.digest[:16]}.arrow")
    places = {
        shard.name: storage.join(area, f"{shard.name}-{digest_json([fingerprint, shard.sha256])[:16]}.arrow")
        for shard in ingest.shards
    }
    pending = [shard for shard in ingest.shards if not storage.exists(places[shard.name])]
    if pending and not storage.exists(reference_uri):
        reference.write(reference_uri)
    work = partial(_judge_shard, ingest=ingest, params=params, reference_uri=reference_uri, places=places)
    with context.progress("judge", ingest.rows) as bar:
        bar.advance(ingest.rows - sum(shard.rows for shard in pending))
        for rows in map_ordered(work, pending, min(context.workers, max(1, len(pending)))):
            bar.advance(rows)
    return [Judgement.from_bytes(storage.read_bytes(places[shard.name])) for shard in ingest.shards]


def _judge_shard(
    shard: Shard, ingest: Dataset, params: FilterParams, reference_uri: str, places: dict[str, str]
) -> int:
    judgement = judge(ingest.read_shard(shard), params, _read_reference(reference_uri))
    end_if_orphaned()
    storage.write_bytes(places[shard.name], judgement.to_bytes())
    return shard.rows


@lru_cache(maxsize=1)
def _read_reference(uri: str) -> Reference:
    return Reference.read(uri)


def _meet(judgements: Sequence[Judgement], ingest: Dataset, params: FilterParams) -> None:
    """Drop duplicates across all shards, then contaminated rows, in the judgements' verdicts."""
    sizes = [len(judgement.ids) for judgement in judgements]
    codes = np.concatenate([judgement.verdict.codes for judgement in judgements])
    verdict = Verdict(codes, [detail for judgement in judgements for detail in judgement.verdict.details])
    ids, kinds, ranks, symmetric, left, right, contaminated = (
        np.concatenate([getattr(judgement, name) for judgement in judgements])
        for name in ("ids", "kinds", "ranks", "symmetric", "left", "right", "contaminated")
    )

    kept = np.flatnonzero(verdict.kept)
    first, second = duplicates.pair_keys(left[kept], right[kept], symmetric[kept])
    survivors = kept[duplicates.exact_duplicates(kinds[kept], first, second, ranks[kept])]
    _drop(verdict, kept, survivors, "exact_duplicate", ids)

    threshold = params.near_duplicates.threshold
    if threshold is not None:
        kept = np.flatnonzero(verdict.kept)
        survivors = kept[
            duplicates.near_duplicates(
                kinds[kept],
                left[kept],
                right[kept],
                ranks[kept],
                np.concatenate([judgement.bands for judgement in judgements], axis=1)[:, kept],
                lambda rows, side: _texts(ingest, kept[rows], side),
                threshold,
                params.near_duplicates.max_cluster,
            )
        ]
        _drop(verdict, kept, survivors, "near_duplicate", ids)

    evidence = [text for judgement in judgements for text in judgement.evidence]
    verdict.drop(contaminated == contamination.EXACT, "contaminated_exact", evidence)
    verdict.drop(contaminated == contamination.NEAR, "contaminated_near", evidence)

    start = 0
    for judgement, size in zip(judgements, sizes, strict=True):
        judgement.verdict.codes[:] = verdict.codes[start : start + size]
        judgement.verdict.details[:] = verdict.details[start : start + size]
        start += size


def _drop(
    verdict: Verdict, rows: NDArray[np.int64], survivors: NDArray[np.int64], reason: str, ids: NDArray[np.uint64]
) -> None:
    lost = survivors != rows
    verdict.codes[rows[lost]] = CODES[reason]
    for row, survivor in zip(rows[lost].tolist(), ids[survivors[lost]].tolist(), strict=True):
        verdict.details[row] = f"of {survivor}"


def _texts(ingest: Dataset, rows: NDArray[np.int64], side: int) -> list[str]:
    """Normalised texts of one side of rows, which are sorted and count through all shards."""
    texts: list[str] = []
    ends = np.cumsum([shard.rows for shard in ingest.shards])
    for shard, end in zip(ingest.shards, ends.tolist(), strict=True):
        inside = rows[(rows >= end - shard.rows) & (rows < end)] - (end - shard.rows)
        if len(inside):
            columns = [("text",), ("text_pos", "text_pair")][side]
            table = ingest.read_shard(shard, columns, verify=False).take(inside)
            raw = pc.coalesce(*(table[name] for name in columns))
            texts += map(normalise_key, clean_column(raw).to_pylist())
    return texts


@dataclass(frozen=True)
class _ShardWork:
    """What is decided about a shard: which rows stay, why the others go, and every row's language."""

    shard: Shard
    codes: NDArray[np.uint8]
    details: list[str | None]
    languages: list[str]

    @classmethod
    def of(cls, shard: Shard, judgement: Judgement) -> _ShardWork:
        return cls(shard, judgement.verdict.codes, judgement.verdict.details, judgement.languages)

    @property
    def digest(self) -> str:
        rest = digest_json([self.details, self.languages]).encode()
        return hashlib.sha256(self.codes.tobytes() + rest).hexdigest()


def _write_shard(task: ShardTask, ingest: Dataset) -> list[ShardOutput]:
    work: Any = task.payload
    table = clean_table(ingest.read_shard(work.shard, SCHEMA.names))
    table = table.set_column(SCHEMA.get_field_index("lang"), "lang", pa.array(work.languages, pa.string()))
    kept = work.codes == KEPT
    rejected = table.filter(pa.array(~kept))
    lost = np.flatnonzero(~kept)
    reasons = [REASONS[code] for code in work.codes[lost]]
    kept_table = table.filter(pa.array(kept))
    stats = Counter(f"lang.{code}" for code in kept_table["lang"].to_pylist())
    output = ShardOutput(
        kept=kept_table,
        rejected=reject_records(rejected, reasons, [work.details[row] for row in lost]),
        rows_in=Counter(table["source"].to_pylist()),
        stats=dict(stats),
    )
    return [output]


def _check_sources(context: Context, ingest: Dataset, counts: Mapping[str, Counter[int]]) -> None:
    """Say how many rows stay; warn of each source that loses every row, raise InputError if all do."""
    kept = sum(codes[KEPT] for codes in counts.values())
    for source, codes in sorted(counts.items()):
        if not codes[KEPT]:
            code, rows = min(codes.items(), key=lambda item: (-item[1], item[0]))
            line = f"source {source}: all {codes.total():,} rows were dropped, {rows:,} of them for {REASONS[code]!r}"
            if not kept:
                raise InputError(f"{ingest.uri}: no row is left to train on; {line}")
            context.log(f"warning: {line}")
    context.log(f"{kept:,} of {ingest.rows:,} rows kept")


def _remove(area: str) -> None:
    for info in storage.list_files(area):
        storage.remove(info.uri)
    if not storage.is_s3(area) and storage.local_path(area).is_dir():
        for path in storage.local_path(area).iterdir():
            path.unlink()  # unfinished files of a killed writer
        storage.local_path(area).rmdir()
