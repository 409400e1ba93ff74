"""Measuring during training: what is measured, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from components.core.errors import UsageError
from components.core.records import record_table
from components.core.suite import RetrievalTask, StsTask
from components.training import devset
from components.training.devset import ClassTask, DevSet, Selection, dev_tasks, write_dev
from components.training.tokens import PASSAGE, QUERY, SYMMETRIC, Reading, Texts


def retrieval(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"task": "retri_contrast", "text": text, "text_pos": pos, "source": "a"} for text, pos in pairs]


def graded(source: str, *pairs: tuple[str, str, float]) -> list[dict[str, Any]]:
    return [{"task": "cosent", "text": a, "text_pair": b, "label": y, "source": source} for a, b, y in pairs]


def classes(source: str, *pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"task": "cls_contrast", "text": text, "text_pos": label, "source": source} for text, label in pairs]


def records(*rows: Sequence[dict[str, Any]]) -> pa.Table:
    return record_table([row for part in rows for row in part])


def read(tasks: Sequence[Any], folder: Path, readings: dict[int, Reading] | None = None) -> DevSet:
    words = {"[UNK]": 0}
    for task in tasks:
        sides = [getattr(task, name, []) for name in ("query_texts", "passage_texts", "left", "right", "texts")]
        for text in [text for side in sides for text in side]:
            for word in text.split():
                words.setdefault(word, len(words))
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return DevSet.read(tasks, tokenizer, readings or dict.fromkeys((QUERY, PASSAGE, SYMMETRIC), Reading()), folder)


def test_queries_are_ranked_among_dev_passages_and_some_that_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    dev = records(retrieval(("q1", "p1"), ("q1", "p2"), ("q2", "p2")))
    training = records(retrieval(("q1", "p3"), ("t1", "p4"), ("t2", "p5"), ("t3", "p5")))
    (task,) = dev_tasks(dev, training)
    assert isinstance(task, RetrievalTask)
    assert task.query_texts == ["q1", "q2"]
    assert sorted(task.passage_texts) == ["p1", "p2", "p3", "p4", "p5"]
    relevant = [sorted(task.passage_texts[index] for index in gains) for gains in task.qrels]
    assert relevant == [["p1", "p2", "p3"], ["p2"]]  # p3 answers q1 in training
    monkeypatch.setattr(devset, "_OTHERS", 1)
    (task,) = dev_tasks(dev, training)
    assert isinstance(task, RetrievalTask)
    assert len(task.passage_texts) == 3


def test_grades_are_scaled_within_their_source_and_labels_compete_within_theirs() -> None:
    dev = records(
        graded("five", ("a", "b", 5.0), ("a", "c", 1.0)),
        graded("two", ("d", "e", 1.0), ("d", "f", 0.0)),
        classes("tone", ("fine", "good")),
        classes("topic", ("ball", "sport"), ("vote", "politics")),
    )
    training = records(classes("tone", ("awful", "bad")))
    similarity, labelled = dev_tasks(dev, training)
    assert isinstance(similarity, StsTask)
    assert similarity.labels == [1.0, 0.0, 1.0, 0.0]
    assert isinstance(labelled, ClassTask)
    named = list(zip(labelled.label_sources, labelled.labels, strict=True))
    assert named == [("tone", "good"), ("topic", "sport"), ("topic", "politics"), ("tone", "bad")]
    assert labelled.answers == [0, 1, 2]


def test_tasks_are_measured_on_vectors_of_their_side(tmp_path: Path) -> None:
    dev = records(
        retrieval(("east", "right"), ("north", "up")),
        graded("s", ("east", "right", 1.0), ("east", "up", 0.5), ("east", "west", 0.0)),
        classes("c", ("north", "up"), ("east", "up"), ("west", "right")),
    )
    place = {"east": (1, 0), "right": (0.9, 0.1), "north": (0, 1), "up": (0.1, 0.9), "west": (-1, 0)}
    measured = read(dev_tasks(dev, dev.slice(0, 0)), tmp_path)
    names = {int(measured.tokens.rows_of([word])[0]): word for word in place}
    asked: list[tuple[str, int]] = []

    def vectors(texts: Texts) -> np.ndarray:
        words = [names[row] for row in texts.rows.tolist()]
        asked.extend(zip(words, texts.side.tolist(), strict=True))
        found = np.array([place[word] for word in words], np.float32)
        found[texts.side == PASSAGE] *= -1  # only the passages of retrieval are turned round
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    values = measured.measure(vectors)
    assert measured.metrics == {"retrieval": "ndcg_at_10", "similarity": "spearman", "classes": "accuracy"}
    assert values["similarity"] == 100.0
    assert values["classes"] == pytest.approx(100 / 3, abs=1e-3)
    # both answers are the farther of two passages: rank 2 of 2
    assert values["retrieval"] == pytest.approx(100 / np.log2(3), abs=1e-3)
    assert len(asked) == len(set(asked))
    assert ("east", QUERY) in asked
    assert ("east", SYMMETRIC) in asked


def test_sides_are_read_with_their_prompts(tmp_path: Path) -> None:
    dev = records(retrieval(("east", "right")))
    readings = {QUERY: Reading("ask: "), PASSAGE: Reading(), SYMMETRIC: Reading()}
    measured = read(dev_tasks(dev, dev.slice(0, 0)), tmp_path, readings)
    lengths = measured.tokens.lengths(measured.texts)
    assert dict(zip(measured.texts.side.tolist(), lengths.tolist(), strict=True)) == {QUERY: 3, PASSAGE: 1}


class Given:
    """A dev set with these values, one measurement after the other."""

    names = ("a", "b")
    metrics: ClassVar[dict[str, str]] = {"a": "spearman", "b": "accuracy"}

    def __init__(self, *values: tuple[float, float]) -> None:
        self.values = list(values)

    def measure(self, vectors: object) -> dict[str, float]:
        return dict(zip(self.names, self.values.pop(0), strict=True))


def test_the_best_measurement_is_kept_and_patience_ends(tmp_path: Path) -> None:
    selection = Selection(Given((1, 5), (4, 4), (6, 2), (0, 7)), every=10, patience=2)
    better = []
    for step in (10, 20, 30, 40):
        assert not selection.hopeless
        better.append(selection.measure(step, lambda texts: np.zeros(0)))
    assert better == [True, True, False, False]
    assert (selection.best, selection.hopeless) == (20, True)
    assert selection.summary()["best"] == {"step": 20, "value": 4.0, "tasks": {"a": 4, "b": 4}}
    write_dev(str(tmp_path / "dev.csv"), selection)
    rows = (tmp_path / "dev.csv").read_text().splitlines()
    assert rows[0] == "step,task,metric,value,best"
    assert rows[4:7] == ["20,a,spearman,4,1", "20,b,accuracy,4,1", "20,mean,mean,4.0,1"]
    assert sum(row.endswith(",1") for row in rows) == 3
    named = Selection(Given((1, 5), (4, 4)), every=10, metric="b")
    for step in (10, 20):
        named.measure(step, lambda texts: np.zeros(0))
    assert named.best == 10
    assert named.rows()[0] == (10, "a", "spearman", 1, 1)
    assert len(named.rows()) == 4
    assert [step for step in range(1, 26) if named.due(step, 25)] == [10, 20, 25]


def test_unusable_names_are_one_clear_line() -> None:
    with pytest.raises(UsageError, match="dev\\.metric: no task 'c'; there are a, b"):
        Selection(Given(), every=1, metric="c")
    doubled = Given()
    doubled.names = ("a", "a")
    with pytest.raises(UsageError, match="two tasks are named 'a'"):
        Selection(doubled, every=1)
