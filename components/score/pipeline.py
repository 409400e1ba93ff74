"""The score step: embed every text once with the teacher of its language, take cosines, drop clear mismatches.

Only retrieval pairs are held against a threshold: there, the two texts must be about the same thing. The other tasks
are scored and kept, because a low cosine is what they may have to teach: a `cosent` pair is often labelled as
dissimilar, and the name of a class is seldom like its members.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from components.core import storage
from components.core.arrays import read_array, write_array
from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.errors import InputError
from components.core.fingerprint import code_digest, digest_json
from components.core.manifest import Dataset, Shard
from components.core.progress import Progress
from components.core.records import SCHEMA, reject_records
from components.core.step import Context
from components.core.teacher import ScoreParams
from components.score.histogram import THRESHOLDED, Counts, count_bins, histogram_csv
from components.score.scores import Scores, Teachers, score_tables

# Shards are scored together up to this many rows, whose texts and vectors are in memory at once; a single shard may be
# larger. Texts that come again in a later group are found in the store of vectors.
GROUP_ROWS = 100_000
# Scores of finished shards wait here, inside the output, until the dataset is committed.
SCORES = "_scores"
COLUMNS = ["task", "text", "text_pos", "text_pair", "lang"]


@dataclass(frozen=True)
class Scored:
    """A shard and the file with the cosine of each row: NaN without a teacher, infinite where a text has no vector."""

    shard: Shard
    scores: str


def run(context: Context) -> None:
    """Score `filter` into `output`.

    Raises InputError if no row is left, UsageError for an unknown teacher (before any work, if its language occurs).
    """
    params = context.section(ScoreParams)
    dataset = Dataset.open(context.inputs["filter"])
    teachers = Teachers(params)
    for lang in sorted(params.teachers):
        if dataset.stats.get(f"lang.{lang}"):
            teachers[lang]
    code = code_digest("components.core", "components.score", "components.training")
    area = storage.join(context.outputs["output"], SCORES)
    counts: Counts = {}
    with context.progress("score", dataset.rows) as bar:
        tasks = [
            task
            for group in _groups(dataset.shards)
            for task in _score_group(group, dataset, teachers, area, code, counts, context.workers, bar)
        ]
    storage.write_bytes(context.outputs["histogram"], histogram_csv(counts, params))
    fingerprint = digest_json([params.model_dump(mode="json"), code])
    work = partial(_write_shard, dataset=dataset, params=params)
    progress = context.progress("write", len(tasks), "shards")
    output = build_dataset(context.outputs["output"], "score", tasks, work, fingerprint, context.workers, progress)
    storage.remove_tree(area)
    if not output.rows:
        raise InputError(f"{dataset.uri}: no row is left to train on; lower score.thresholds ({params.thresholds})")
    dropped, unscored = dataset.rows - output.rows, int(output.stats.get("unscored", 0))
    context.log(
        f"{output.rows:,} of {dataset.rows:,} rows kept, {dropped:,} dropped, {unscored:,} kept without a score"
    )


def _groups(shards: Sequence[Shard]) -> Iterator[list[Shard]]:
    group: list[Shard] = []
    for shard in shards:
        if group and sum(each.rows for each in group) + shard.rows > GROUP_ROWS:
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def _score_group(
    group: Sequence[Shard],
    dataset: Dataset,
    teachers: Teachers,
    area: str,
    code: str,
    counts: Counts,
    workers: int,
    bar: Progress,
) -> list[ShardTask]:
    """Tasks with the scores of these shards, taken from an interrupted run or made now; counts them too."""
    tables = [dataset.read_shard(shard, COLUMNS) for shard in group]
    keys = [
        digest_json([shard.sha256, {lang: teachers[lang].digest for lang in teachers.among([table])}])
        for shard, table in zip(group, tables, strict=True)
    ]
    files = [
        storage.join(area, f"{shard.name}-{digest_json([code, key])[:16]}.npy")
        for shard, key in zip(group, keys, strict=True)
    ]
    pending = [index for index, file in enumerate(files) if not storage.exists(file)]
    rows = sum(shard.rows for shard in group)
    pending_rows = sum(group[index].rows for index in pending)
    bar.advance(rows - pending_rows)
    for index, made in zip(
        pending, score_tables([tables[index] for index in pending], teachers, workers, bar), strict=True
    ):
        write_array(files[index], made)
    for table, file in zip(tables, files, strict=True):
        _count(counts, table, read_array(file), teachers)
    return [
        ShardTask(shard.name, key, Scored(shard, file)) for shard, key, file in zip(group, keys, files, strict=True)
    ]


def _count(counts: Counts, table: pa.Table, scores: Scores, teachers: Teachers) -> None:
    langs, tasks = np.array(table["lang"].to_pylist(), object), np.array(table["task"].to_pylist(), object)
    for lang in teachers.among([table]):
        for task in sorted(set(tasks)):
            chosen = scores[(langs == lang) & (tasks == task) & np.isfinite(scores)]
            if len(chosen):
                key = teachers.spec(lang), task
                counts[key] = counts.get(key, 0) + count_bins(chosen)


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
