"""The score step: embed every text once with the teacher of its language, take cosines, drop clear mismatches.

Only retrieval pairs are held against a threshold: there, the two texts must be about the same thing. The other tasks
are scored and kept, because a low cosine is what they may have to teach: a `cosent` pair is often labelled as
dissimilar, and the name of a class is seldom like its members.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from components.core import storage
from components.core.arrays import read_array, write_array
from components.core.build import ShardOutput, ShardTask, build_ahead, build_dataset, find_or_make, open_finished
from components.core.errors import InputError
from components.core.execute import map_ordered
from components.core.fingerprint import code_digest, digest_json, json_document
from components.core.manifest import Dataset, Shard
from components.core.progress import Progress
from components.core.records import SCHEMA, reject_records
from components.core.step import Context
from components.core.teacher import ScoreParams
from components.score.histogram import THRESHOLDED, Counts, count_bins, histogram_csv
from components.score.scores import Scores, Teachers, score_tables

# Shards are scored together up to this many rows, whose texts and vectors are in memory at once; a single shard may be
# larger. Texts that come again in a later group are found in the store of vectors. Pods share groups.
GROUP_ROWS = 100_000
# Scores of finished shards wait here, inside the output, until the dataset is committed.
SCORES = "_scores"
# The report that the manifest keeps, for a run that finds the dataset made.
HISTOGRAM = "histogram"
COLUMNS = ["task", "text", "text_pos", "text_pair", "lang"]


@dataclass(frozen=True)
class Scored:
    """A shard and the two files that scoring it leaves, the second one last.

    `scores` holds the cosine of each row: NaN without a teacher, infinite where a text has no vector. `counts` holds
    them by bin, and the digests of the teachers by language.
    """

    shard: Shard
    scores: str
    counts: str


def run(context: Context) -> None:
    """Score `filter` into `output`, or some of its shards ahead of that.

    Raises InputError if no row is left, UsageError for an unknown teacher (before any work, if its language occurs).
    """
    params = context.section(ScoreParams)
    dataset = Dataset.open(context.inputs["filter"])
    teachers = Teachers(params)
    used = {lang: teachers[lang].digest for lang in _languages(dataset, params)}
    code = code_digest("components.core", "components.score", "components.training")
    fingerprint = digest_json([params.model_dump(mode="json"), code])
    made_from = digest_json([dataset.digest, used])
    area = storage.join(context.outputs["output"], SCORES)
    finished = partial(
        open_finished, context.outputs["output"], "score", fingerprint, made_from, workers=context.workers
    )
    scored = [_place(shard, area, [code, used]) for shard in dataset.shards]
    make = partial(_score, context, params, dataset, teachers, scored, fingerprint, made_from)
    output = find_or_make(finished, make)
    if output is None:
        return
    if not context.part:
        storage.write_bytes(context.outputs["histogram"], output.reports[HISTOGRAM].encode())
    storage.remove_tree(area)
    if context.part:
        return
    if not output.rows:
        raise InputError(f"{dataset.uri}: no row is left to train on; lower score.thresholds ({params.thresholds})")
    dropped, unscored = dataset.rows - output.rows, int(output.stats.get("unscored", 0))
    context.log(
        f"{output.rows:,} of {dataset.rows:,} rows kept, {dropped:,} dropped, {unscored:,} kept without a score"
    )


def _languages(dataset: Dataset, params: ScoreParams) -> list[str]:
    """The languages of the rows that have a teacher: as the filter has counted them, or by looking at every row."""
    counted = {name.removeprefix("lang.") for name in dataset.stats if name.startswith("lang.")}
    if not counted:
        counted = {lang for shard in dataset.shards for lang in dataset.read_shard(shard, ["lang"])["lang"].to_pylist()}
    return sorted(counted & params.teachers.keys())


def _place(shard: Shard, area: str, depends: object) -> Scored:
    stem = storage.join(area, f"{shard.name}-{digest_json([shard.sha256, depends])[:16]}")
    return Scored(shard, f"{stem}.npy", f"{stem}.json")


def _score(
    context: Context,
    params: ScoreParams,
    dataset: Dataset,
    teachers: Teachers,
    scored: Sequence[Scored],
    fingerprint: str,
    made_from: str,
) -> Dataset | None:
    """Scores of the shards, taken from an interrupted run or made now, then the shards; of a part its own groups."""
    part = context.part
    groups = list(_groups(scored))
    if part:
        groups = list(part.own(groups))
    scored = [each for group in groups for each in group]
    there = {info.uri for info in storage.list_files(storage.join(context.outputs["output"], SCORES))}
    with context.progress("score", sum(each.shard.rows for each in scored)) as bar:
        for group in groups:
            pending = [each for each in group if each.counts not in there]
            bar.advance(sum(each.shard.rows for each in group) - sum(each.shard.rows for each in pending))
            if pending:
                _score_shards(pending, dataset, teachers, context.workers, bar)
    counts: Counts = {}
    tasks = []
    uris = [each.counts for each in scored]
    for each, data in zip(scored, map_ordered(_read_json, uris, min(context.workers, max(1, len(uris)))), strict=True):
        tasks.append(ShardTask(each.shard.name, digest_json([each.shard.sha256, data["teachers"]]), each))
        for teacher, task, bins in data["counts"]:
            counts[teacher, task] = counts.get((teacher, task), 0) + np.array(bins, np.int64)
    work = partial(_write_shard, dataset=dataset, params=params)
    progress = context.progress("write", len(tasks), "shards")
    given = (context.outputs["output"], "score", tasks, work, fingerprint, context.workers, progress)
    if part:
        build_ahead(*given)
        return None
    histogram = histogram_csv(counts, params)
    storage.write_bytes(context.outputs["histogram"], histogram)
    return build_dataset(*given, made_from=made_from, reports={HISTOGRAM: histogram.decode()})


def _groups(scored: Sequence[Scored]) -> Iterator[list[Scored]]:
    group: list[Scored] = []
    for each in scored:
        if group and sum(other.shard.rows for other in group) + each.shard.rows > GROUP_ROWS:
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def _score_shards(scored: Sequence[Scored], dataset: Dataset, teachers: Teachers, workers: int, bar: Progress) -> None:
    """Score these shards together, and leave both files of each."""
    tables = [dataset.read_shard(each.shard, COLUMNS) for each in scored]
    for each, table, scores in zip(scored, tables, score_tables(tables, teachers, workers, bar), strict=True):
        write_array(each.scores, scores)
        counted = _count(table, scores, teachers)
        data = {
            "teachers": {lang: teachers[lang].digest for lang in teachers.among([table])},
            "counts": [[*key, bins.tolist()] for key, bins in sorted(counted.items())],
        }
        storage.write_bytes(each.counts, json_document(data))


def _read_json(uri: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(storage.read_bytes(uri))
    return found


def _count(table: pa.Table, scores: Scores, teachers: Teachers) -> Counts:
    counts: Counts = {}
    langs, tasks = np.array(table["lang"].to_pylist(), object), np.array(table["task"].to_pylist(), object)
    for lang in teachers.among([table]):
        for task in sorted(set(tasks)):
            chosen = scores[(langs == lang) & (tasks == task) & np.isfinite(scores)]
            if len(chosen):
                key = teachers.spec(lang), task
                counts[key] = counts.get(key, 0) + count_bins(chosen)
    return counts


def _write_shard(task: ShardTask, dataset: Dataset, params: ScoreParams) -> list[ShardOutput]:
    shard = task.payload.shard
    scores = read_array(task.payload.scores)
    table = dataset.read_shard(shard)
    finite = np.isfinite(scores)
    column = pa.array(scores, pa.float32(), mask=~finite)
    table = table.set_column(SCHEMA.get_field_index("score"), "score", column)
    teachers = [params.teachers.get(lang) if lang else None for lang in table["lang"].to_pylist()]
    limits = np.array([params.thresholds.get(teacher, -np.inf) if teacher else -np.inf for teacher in teachers])
    thresholded = np.array([task == THRESHOLDED for task in table["task"].to_pylist()], bool)
    low = thresholded & finite & (scores < limits)
    blank = np.isinf(scores)
    lost = np.flatnonzero(low | blank)
    reasons = ["no_vector" if blank[row] else "below_threshold" for row in lost]
    details = [
        f"{teachers[row]} embeds one of the texts to nothing" if blank[row] else f"{teachers[row]} {scores[row]:.4f}"
        for row in lost
    ]
    unscored = np.isnan(scores)
    stats = Counter(f"unscored.{lang}" for lang in table.filter(pa.array(unscored))["lang"].to_pylist())
    stats["unscored"] = int(unscored.sum())
    output = ShardOutput(
        kept=table.filter(pa.array(~(low | blank))),
        rejected=reject_records(table.take(lost), reasons, details),
        rows_in=Counter(table["source"].to_pylist()),
        stats=dict(stats),
    )
    return [output]
