"""Rows that a classifier is sure of: the entries of filter.safety and filter.quality, and the scores they leave."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core.classifier import Classifier
from components.core.records import dump_meta
from components.filter.params import ClassifierParams
from components.filter.texts import SAMPLE_CHARACTERS, ShardTexts
from components.filter.verdict import Mask, Verdict

DECIMALS = 4  # of a stored score; the threshold is compared with what is stored

SCORE = "score_"  # before the name of an entry, the name of its column in a judgement

Scores = NDArray[np.float32]


def check(entries: Sequence[ClassifierParams]) -> None:
    """Load every classifier, so that a wrong one ends the step before its work begins.

    Raises InputError or UsageError as `Classifier.open` does.
    """
    for entry in entries:
        Classifier.open(entry.uri, entry.sha256, entry.label)


def judge(
    texts: ShardTexts,
    tasks: NDArray[np.object_],
    languages: Sequence[str],
    entries: Sequence[ClassifierParams],
    verdict: Verdict,
) -> dict[str, Scores]:
    """Drop rows with a side whose score reaches the threshold of an entry; returns the scores of rows by entry.

    A row's score [N] is that of its worst judged side, NaN where the entry did not judge it: rows that are dropped
    already, of languages that the entry does not name, and label texts. Each distinct text is scored once, by its first
    SAMPLE_CHARACTERS. Hard negatives are not judged.
    """
    scores = {}
    for entry in entries:
        rows = verdict.kept & _spoken(languages, entry.languages)
        scores[entry.name] = _row_scores(texts, tasks, rows, entry)
        bad = scores[entry.name] >= entry.threshold
        verdict.drop(bad, entry.name, [f"{score:.{DECIMALS}f}" for score in scores[entry.name].tolist()])
    return scores


def store_scores(table: pa.Table, scores: pa.Table) -> pa.Table:
    """Records [N] of SCHEMA with scores [N], a column an entry, in their `meta` under "scores"."""
    if not scores.num_columns or not len(table):
        return table
    names = [name.removeprefix(SCORE) for name in scores.column_names]
    metas = []
    for meta, row in zip(
        table["meta"].to_pylist(), zip(*(c.to_pylist() for c in scores.columns), strict=True), strict=True
    ):
        found = {name: round(score, DECIMALS) for name, score in zip(names, row, strict=True) if score == score}
        if found:
            known = json.loads(meta) if meta else {}
            meta = dump_meta({**known, "scores": {**known.get("scores", {}), **found}})
        metas.append(meta)
    return table.set_column(table.schema.get_field_index("meta"), "meta", pa.array(metas, pa.string()))


def _row_scores(texts: ShardTexts, tasks: NDArray[np.object_], rows: Mask, entry: ClassifierParams) -> Scores:
    is_label = tasks == "cls_contrast"
    sides = []
    if entry.side != "other":
        sides.append((texts.left, rows))
    if entry.side != "text":
        sides.append((texts.right, rows & ~is_label))
    among = np.unique(np.concatenate([side[judged] for side, judged in sides]))
    classifier = Classifier.open(entry.uri, entry.sha256, entry.label)
    by_text = np.full(len(texts.texts), np.nan, np.float32)
    by_text[among] = classifier.scores([texts.texts[index][:SAMPLE_CHARACTERS] for index in among]).round(DECIMALS)
    result = np.full(len(rows), np.nan, np.float32)
    for side, judged in sides:
        result[judged] = np.fmax(result[judged], by_text[side[judged]])
    return result


def _spoken(languages: Sequence[str], wanted: Sequence[str]) -> Mask:
    return np.fromiter((not wanted or code in wanted for code in languages), bool, len(languages))
