"""The score step: embed every text once with the teacher of its language, take cosines, drop clear mismatches.

Only retrieval pairs are held against a threshold: there, the two texts must be about the same thing. The other tasks
are scored and kept, because a low cosine is what they may have to teach: a `cosent` pair is often labelled as
dissimilar, and the name of a class is seldom like its members.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core import storage
from components.core.errors import InputError
from components.core.fingerprint import code_digest, digest_json
from components.core.manifest import Dataset, Shard, ShardOutput, ShardTask, build_dataset
from components.core.records import SCHEMA, pair_texts, reject_records
from components.core.step import Context
from components.core.teacher import ScoreParams
from components.score.histogram import count_bins, histogram_csv
from components.training.encoder import TEACHER_CACHE, Encoder, encode_cached, open_encoder

# Shards are embedded together up to this many rows: their vectors lie in memory at once.
GROUP_ROWS = 500_000
THRESHOLDED = "retri_contrast"
COLUMNS = ["task", "text", "text_pos", "text_pair", "lang"]

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Scored:
    """A shard and the cosine of each row: NaN without a teacher, infinite where a text has no direction."""

    shard: Shard
    scores: Scores


def run(context: Context) -> None:
    """Score `filter` into `output`. Raises InputError if no row is left, UsageError for an unknown teacher."""
    params = context.section(ScoreParams)
    dataset = Dataset.open(context.inputs["filter"])
    teachers = _Teachers(params.teachers)
    code = code_digest("components.core", "components.score", "components.training")
    fingerprint = digest_json([params.model_dump(mode="json"), code])
    counts: dict[tuple[str, str], NDArray[np.int64]] = {}
    tasks = []
    for group in _groups(dataset.shards):
        tables = [dataset.read_shard(shard, COLUMNS) for shard in group]
        for shard, table, scores in zip(group, tables, _score_tables(tables, teachers, context.workers), strict=True):
            _count(counts, table, scores, params)
            digests = {lang: teachers[lang].digest for lang in teachers.among([table])}
            tasks.append(ShardTask(shard.name, digest_json([shard.sha256, digests]), Scored(shard, scores)))
    storage.write_bytes(context.outputs["histogram"], histogram_csv(counts, params))
    work = partial(_write_shard, dataset=dataset, params=params)
    progress = context.progress("write", len(tasks), "shards")
    output = build_dataset(context.outputs["output"], "score", tasks, work, fingerprint, context.workers, progress)
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


class _Teachers:
    """The teachers of the languages that occur, each opened when it is first needed."""

    def __init__(self, specs: Mapping[str, str]) -> None:
        self.specs = specs
        self._open: dict[str, Encoder] = {}

    def __getitem__(self, lang: str) -> Encoder:
        spec = self.specs[lang]
        if spec not in self._open:
            self._open[spec] = open_encoder(spec)
        return self._open[spec]

    def among(self, tables: Sequence[pa.Table]) -> list[str]:
        """The languages of these rows that have a teacher."""
        return sorted({lang for table in tables for lang in table["lang"].unique().to_pylist()} & self.specs.keys())


def _score_tables(tables: Sequence[pa.Table], teachers: _Teachers, workers: int) -> list[Scores]:
    """Cosines of the rows of each table; every different text is embedded once for all of them."""
    scores = [np.full(len(table), np.nan, np.float32) for table in tables]
    langs = [np.array(table["lang"].to_pylist(), object) for table in tables]
    sides = [[side.to_numpy(zero_copy_only=False) for side in pair_texts(table)] for table in tables]
    for lang in teachers.among(tables):
        rows = [np.flatnonzero(each == lang) for each in langs]
        pairs = [(left[index], right[index]) for (left, right), index in zip(sides, rows, strict=True)]
        places: dict[str, int] = {}
        for pair in pairs:
            for side in pair:
                for text in side:
                    places.setdefault(text, len(places))
        vectors = encode_cached(teachers[lang], list(places), TEACHER_CACHE, workers)
        for part, index, pair in zip(scores, rows, pairs, strict=True):
            left, right = (vectors[[places[text] for text in side]] for side in pair)
            part[index] = _cosines(left, right)
    return scores


def _cosines(left: Scores, right: Scores) -> Scores:
    """Cosines [N] of normalised vectors [N, D]; infinite where one side is zero or not finite."""
    if not len(left):
        return np.zeros(0, np.float32)
    cosines = np.einsum("nd,nd->n", left, right)
    usable = np.isfinite(cosines) & left.any(axis=1) & right.any(axis=1)
    return np.where(usable, cosines, np.inf).astype(np.float32)


def _count(
    counts: dict[tuple[str, str], NDArray[np.int64]], table: pa.Table, scores: Scores, params: ScoreParams
) -> None:
    langs, tasks = np.array(table["lang"].to_pylist(), object), np.array(table["task"].to_pylist(), object)
    for lang, teacher in sorted(params.teachers.items()):
        for task in sorted(set(tasks)):
            chosen = scores[(langs == lang) & (tasks == task) & np.isfinite(scores)]
            if len(chosen):
                counts[teacher, task] = counts.get((teacher, task), 0) + count_bins(chosen)


def _write_shard(task: ShardTask, dataset: Dataset, params: ScoreParams) -> list[ShardOutput]:
    shard, scores = task.payload.shard, task.payload.scores
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
