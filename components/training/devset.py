"""Measuring a model while it is trained, and what follows from that: the best weights, and an early end.

A dev set is a list of tasks whose texts are no training texts: records that were kept out, or suites of one's own.
Retrieval is measured by nDCG@10 over all passages of the task, graded pairs by Spearman's correlation, classes by the
share of texts that lie nearest to their own label; all in percent, at the model's full dimension.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core import storage
from components.core.errors import UsageError
from components.core.measure import DIGITS, Embedded, Floats, main_metric, measure_embedded
from components.core.suite import RetrievalTask, StsTask, script_language
from components.core.textnorm import text_ids
from components.training.corpus import Rows
from components.training.tokens import PASSAGE, QUERY, SIDES, SYMMETRIC, Reading, SidedTokens, Texts, read_sides

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

Vectors = Callable[[Texts], Floats]
"""Unit vectors [T, D] of texts, as the model is at this moment."""

_OTHERS = 1000  # training passages beside those of the dev records: with few passages every model looks good


@dataclass(frozen=True)
class ClassTask:
    """Texts [N] and labels [L], the label that each text has, and the source of each: labels compete within one."""

    name: str
    texts: list[str]
    labels: list[str]
    answers: list[int]
    text_sources: list[str]
    label_sources: list[str]


DevTask = RetrievalTask | StsTask | ClassTask


def dev_tasks(records: pa.Table, training: pa.Table) -> list[DevTask]:
    """Tasks of the records that were kept out of ``training``: one for each kind of record that there is."""
    kinds = {"retri_contrast": _retrieval, "cosent": _similarity, "cls_contrast": _classes}
    found = (of_kind(_of_task(records, kind), _of_task(training, kind)) for kind, of_kind in kinds.items())
    return [task for task in found if task is not None]


class DevSet:
    """Tasks with the tokens of their texts."""

    def __init__(self, tasks: Sequence[DevTask], tokens: SidedTokens) -> None:
        self._tasks, self.tokens = tasks, tokens
        self._sides = [tuple(_texts(tokens, side, texts) for side, texts in _task_sides(task)) for task in tasks]
        both = Texts.concatenate([texts for sides in self._sides for texts in sides])
        keys = both.rows * len(SIDES) + both.side
        _, first, self._places = np.unique(keys, return_index=True, return_inverse=True)
        self.texts = both[first]
        """Every text once on each side that it is read on."""

    @classmethod
    def read(
        cls, tasks: Sequence[DevTask], tokenizer: Tokenizer, readings: Mapping[int, Reading], folder: Path
    ) -> DevSet:
        """Tokenise the texts of ``tasks`` as the sides of ``readings`` do; the tokens are kept in ``folder``."""
        by_id: dict[int, str] = {}
        ids_of = {side: np.zeros(0, np.uint64) for side in readings}
        for side, texts in (pair for task in tasks for pair in _task_sides(task)):
            ids = text_ids(texts)
            by_id |= zip(ids.tolist(), texts, strict=True)
            ids_of[side] = np.union1d(ids_of[side], ids)
        ids_N = np.array(sorted(by_id), np.uint64)

        def texts_at(rows: Rows) -> list[str]:
            return [by_id[identifier] for identifier in ids_N[rows].tolist()]

        used = {side: np.searchsorted(ids_N, ids).astype(np.int64) for side, ids in ids_of.items()}
        return cls(tasks, read_sides(folder, tokenizer, ids_N, texts_at, readings, used))

    def measure(self, vectors: Vectors) -> dict[str, float]:
        """The main metric of each task in percent, by name of the task."""
        vectors_UD = vectors(self.texts)
        values, first = {}, 0
        for task, (left, right) in zip(self._tasks, self._sides, strict=True):
            middle, last = first + len(left), first + len(left) + len(right)
            left_ND, right_MD = vectors_UD[self._places[first:middle]], vectors_UD[self._places[middle:last]]
            values[task.name] = _value(task, Embedded(left_ND, right_MD))
            first = last
        return values

    @property
    def names(self) -> list[str]:
        """Names of the tasks."""
        return [task.name for task in self._tasks]

    @property
    def metrics(self) -> dict[str, str]:
        """What each task is measured by."""
        return {task.name: "accuracy" if isinstance(task, ClassTask) else main_metric(task) for task in self._tasks}


class Selection:
    """Which measurement was best, and whether there is still hope.

    ``metric`` names the task that decides; None is the mean over the tasks. ``patience`` measurements in a row without
    a better one end the training. Raises UsageError if two tasks have one name, or none that of ``metric``.
    """

    def __init__(self, devset: DevSet, every: int, patience: int | None = None, metric: str | None = None) -> None:
        names = devset.names
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"dev.suite: two tasks are named {name!r}; each needs its own name")
        if metric is not None and metric not in names:
            raise UsageError(f"dev.metric: no task {metric!r}; there are {', '.join(names)}")
        self._devset, self._every, self._patience, self._metric = devset, every, patience, metric
        self.measured: list[dict[str, Any]] = []
        """Every measurement: its step, the values by task, and the value that decides."""

    def due(self, done: int, steps: int) -> bool:
        """Whether to measure after ``done`` of ``steps`` steps: every so often, and at the end."""
        return done % self._every == 0 or done == steps

    @property
    def tokens(self) -> SidedTokens:
        """Tokens of the dev set's texts."""
        return self._devset.tokens

    def measure(self, step: int, vectors: Vectors) -> bool:
        """Measure after ``step`` steps; whether it is the best so far."""
        values = self._devset.measure(vectors)
        decides = values[self._metric] if self._metric else sum(values.values()) / len(values)
        before = self.best
        self.measured.append({"step": step, "value": round(decides, DIGITS), "tasks": dict(values)})
        return self.best != before

    @property
    def best(self) -> int | None:
        """The step of the best measurement, the first of equal ones."""
        if not self.measured:
            return None
        return int(max(self.measured, key=lambda one: (one["value"], -one["step"]))["step"])

    @property
    def hopeless(self) -> bool:
        """Whether the last ``patience`` measurements were all no better than one before them."""
        since = sum(one["step"] > self.best for one in self.measured)
        return self._patience is not None and since >= self._patience

    def figures(self) -> dict[str, float]:
        """The last measurement, for curves."""
        last = self.measured[-1]
        return {"dev": last["value"], **{f"dev/{task}": value for task, value in last["tasks"].items()}}

    def summary(self) -> dict[str, Any]:
        """For the figures that training leaves."""
        best = next(one for one in self.measured if one["step"] == self.best)
        return {"best": best, "metric": self._metric or "mean", "measurements": len(self.measured)}

    def rows(self) -> list[tuple[Any, ...]]:
        """Every measurement as rows (step, task, metric, value, 1 where it was the best): the tasks, then their mean.

        One task is its own mean.
        """
        metrics, rows = self._devset.metrics, []
        for one in self.measured:
            step, best = one["step"], int(one["step"] == self.best)
            rows += [(step, task, metric, one["tasks"][task], best) for task, metric in metrics.items()]
            if self._metric is None and len(metrics) > 1:
                rows.append((step, "mean", "mean", one["value"], best))
        return rows


def write_dev(uri: str, selection: Selection | None) -> None:
    """The measurements as CSV; the header alone if there was no dev set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "task", "metric", "value", "best"])
    writer.writerows(selection.rows() if selection else [])
    storage.write_bytes(uri, text.getvalue().encode())


def _task_sides(task: DevTask) -> tuple[tuple[int, list[str]], tuple[int, list[str]]]:
    """Both sides of a task as (side, texts): queries and passages, left and right texts, or texts and labels."""
    if isinstance(task, RetrievalTask):
        return (QUERY, task.query_texts), (PASSAGE, task.passage_texts)
    if isinstance(task, StsTask):
        return (SYMMETRIC, task.left), (SYMMETRIC, task.right)
    return (SYMMETRIC, task.texts), (SYMMETRIC, task.labels)


def _texts(tokens: SidedTokens, side: int, texts: list[str]) -> Texts:
    return Texts.of(tokens.rows_of(texts), side)


def _value(task: DevTask, embedded: Embedded) -> float:
    if isinstance(task, ClassTask):
        return _accuracy(task, embedded)
    dims = embedded.left.shape[1]
    return measure_embedded(task, embedded, [dims])[dims][main_metric(task)]


def _accuracy(task: ClassTask, embedded: Embedded) -> float:
    """Share of texts whose nearest label of their source is their own, in percent; of equally near ones the first."""
    score_NL = embedded.left @ embedded.right.T
    other_NL = np.array(task.text_sources)[:, None] != np.array(task.label_sources)[None, :]
    score_NL[other_NL] = -np.inf
    return round(100 * float((score_NL.argmax(axis=1) == np.array(task.answers)).mean()), DIGITS)


def _of_task(table: pa.Table, kind: str) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["task"], kind))


def _retrieval(records: pa.Table, training: pa.Table) -> RetrievalTask | None:
    """Each query against the passages of all records and a sample of those that are trained on."""
    if not len(records):
        return None
    queries: dict[str, int] = {}
    passages: dict[str, int] = {}
    qrels: list[dict[int, float]] = []

    def relevant(query: str, passage: str) -> None:
        qrels[queries[query]][passages.setdefault(passage, len(passages))] = 1.0

    for query, passage in zip(records["text"].to_pylist(), records["text_pos"].to_pylist(), strict=True):
        if queries.setdefault(query, len(qrels)) == len(qrels):
            qrels.append({})
        relevant(query, passage)
    others = training["text_pos"].unique().to_pylist()
    for index in np.argsort(text_ids(others), kind="stable")[:_OTHERS].tolist():
        passages.setdefault(others[index], len(passages))
    for query, passage in zip(training["text"].to_pylist(), training["text_pos"].to_pylist(), strict=True):
        if query in queries and passage in passages:  # a query may have other answers that are trained on
            relevant(query, passage)
    return RetrievalTask("retrieval", script_language(queries), list(queries), list(passages), qrels)


def _similarity(records: pa.Table, training: pa.Table) -> StsTask | None:
    """The graded pairs, labels scaled to 0–1 within each source as they are for training."""
    if len(records) < 2:
        return None
    labels = records["label"].to_numpy().astype(np.float64)
    sources = _sources(records)
    for source in dict.fromkeys(sources):
        mine = np.array([one == source for one in sources])
        low, high = labels[mine].min(), labels[mine].max()
        labels[mine] = (labels[mine] - low) / ((high - low) or 1.0)
    left, right = records["text"].to_pylist(), records["text_pair"].to_pylist()
    return StsTask("similarity", script_language(left), left, right, labels.tolist())


def _classes(records: pa.Table, training: pa.Table) -> ClassTask | None:
    """Texts against all labels that their source has, here or in training."""
    if not len(records):
        return None
    labels: dict[tuple[str, str], int] = {}
    for table in (records, training):
        for key in zip(_sources(table), table["text_pos"].to_pylist(), strict=True):
            labels.setdefault(key, len(labels))
    sources, texts = _sources(records), records["text"].to_pylist()
    answers = [labels[key] for key in zip(sources, records["text_pos"].to_pylist(), strict=True)]
    return ClassTask(
        "classes", texts, [label for _, label in labels], answers, sources, [source for source, _ in labels]
    )


def _sources(table: pa.Table) -> list[str]:
    return [source or "" for source in table["source"].to_pylist()]
