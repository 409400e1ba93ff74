"""Records as rows: what each row knows of its record, the sides of its texts, and what is refused before training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.errors import InputError, UsageError
from components.core.records import pair_id, record_table, rejected_table
from components.training.corpus import ABSENT, Corpus, read_corpus
from components.training.plan import BatchPlan, Schedule
from components.training.tokens import PASSAGE, QUERY, SYMMETRIC, Reading, Texts

ROWS: list[dict[str, Any]] = [
    {"task": "retri_contrast", "text": "q1", "text_pos": "p1", "source": "a", "meta": {"repeat": 3, "group": "x"}},
    {"task": "retri_contrast", "text": "q2", "text_pos": "p2", "source": "a"},
    {"task": "retri_contrast", "text": "q3", "text_pos": "p3", "source": "a", "meta": {"group": '"repeat":7'}},
    {"task": "cosent", "text": "q1", "text_pair": "q2", "label": 1.0, "source": "b", "meta": {"repeat": 2}},
    {"task": "cosent", "text": "q1", "text_pair": "q3", "label": 0.0, "source": "b"},
    {"task": "cls_contrast", "text": "q1", "text_pos": "c1", "source": "c", "meta": {"repeat": 5}},
    {"task": "cls_contrast", "text": "q2", "text_pos": "c2", "source": "c"},
]


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    uri = str(tmp_path / "data")
    output = ShardOutput(record_table(ROWS), rejected_table([]), {"a": 3, "b": 2, "c": 2})
    build_dataset(uri, "test", [ShardTask("00000", "key", None)], lambda task: [output], "code", 1)
    return uri


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def corpus_of(rows: list[dict[str, Any]]) -> Corpus:
    """The records in chunks, as shards give them."""
    half = len(rows) // 2
    return Corpus(pa.concat_tables([record_table(rows[:half]), record_table(rows[half:])]), "digest", "data/x")


def pair(number: int, **more: Any) -> dict[str, Any]:
    return {
        "task": "retri_contrast",
        "text": f"q{number}",
        "text_pos": f"p{number}",
        "source": "a",
        "lang": "en",
    } | more


def test_repeats_of_a_source_reach_the_rows_of_every_task(dataset: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = read_corpus(dataset)
    store = corpus.tokenised(tokenizer, tmp_path / "tokens")
    assert corpus.retrieval(store).repeat.tolist() == [3, 1, 1]
    assert corpus.similarity(store).repeat.tolist() == [2, 1]
    assert corpus.classes(store, 1, 0).repeat.tolist() == [5, 1]


def test_rows_know_their_texts_records_sources_and_scores(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [
        pair(0, source="b", text_neg=["n0", "n1"], meta={"pos_score": 0.9, "neg_scores": [0.2, 0.1]}),
        {"task": "cosent", "text": "q0", "text_pair": "s", "label": 2.0, "source": "c"},
        pair(1, source="a", text_neg=["n1"]),
        pair(2, source="b", lang="zh"),
        {"task": "cosent", "text": "q1", "text_pair": "s", "label": 4.0, "source": "c"},
    ]
    corpus = corpus_of(rows).check()
    store = corpus.tokenised(tokenizer, tmp_path / "tokens")
    pairs, graded = corpus.retrieval(store), corpus.similarity(store)
    assert corpus.texts(pairs.query) == ["q0", "q1", "q2"]
    assert corpus.texts(pairs.positive) == ["p0", "p1", "p2"]
    assert corpus.texts(pairs.negatives[0]) == ["n0", "n1"]
    assert pairs.negatives[1].tolist() == [*store.rows_of(["n1"]), ABSENT]
    assert pairs.negatives[2].tolist() == [ABSENT, ABSENT]
    assert pairs.id.tolist() == [pair_id("retri_contrast", f"q{k}", f"p{k}") for k in range(3)]
    assert pairs.source.tolist() == [1, 0, 1]
    np.testing.assert_array_equal(pairs.score, np.array([[0.9, 0.2, 0.1]] + [[np.nan] * 3] * 2, np.float32))
    assert corpus.retrieval(store, ["zh"]).id.tolist() == pairs.id[:2].tolist()
    assert graded.label.tolist() == [0.0, 1.0]
    assert corpus.texts(graded.right) == ["s", "s"]
    assert corpus_of(rows[1:]).retrieval(store).score is None


def test_labels_are_scaled_by_source_and_one_grade_alone_ranks_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    graded = {"task": "cosent", "text_pair": "s"}
    labels = {"a": [1.0, 5.0, 2.0], "b": [1.0, 1.0], "c": [0.0, 1.0]}
    rows = [{**graded, "text": f"{name}{k}", "label": label, "source": name} for name in labels
            for k, label in enumerate(labels[name])]  # fmt: skip
    corpus = corpus_of(rows).check()
    similarity = corpus.similarity(corpus.tokenised(tokenizer, tmp_path / "tokens"))
    assert similarity.label.tolist() == [0.0, 1.0, 0.25, 0.0, 1.0]
    assert corpus.texts(similarity.left) == ["a0", "a1", "a2", "c0", "c1"]
    assert similarity.source.tolist() == [0, 0, 0, 2, 2]
    assert len(similarity.task(4)) == len(similarity.repeat) == len(similarity.id) == 5


def test_texts_are_read_on_the_sides_their_records_put_them_on(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [
        pair(0, text_neg=["n0"]),
        pair(1, lang="zh"),
        {"task": "cosent", "text": "s0", "text_pair": "s1", "label": 1.0, "source": "b"},
        {"task": "cls_contrast", "text": "t0", "text_pos": "c0", "text_neg": ["c1"], "source": "c"},
    ]
    readings = {QUERY: Reading("a query "), PASSAGE: Reading("a "), SYMMETRIC: Reading("some text or other ")}
    corpus = corpus_of(rows)
    tokens = corpus.sided(tokenizer, tmp_path / "plain", readings)
    sides = {QUERY: ["q0", "q1"], PASSAGE: ["p0", "p1", "n0"], SYMMETRIC: ["s0", "s1", "t0", "c0", "c1"]}
    assert [len(store) for store in tokens.stores] == [2, 3, 5]
    for side, length in ((QUERY, 3), (PASSAGE, 2), (SYMMETRIC, 5)):
        assert set(tokens.lengths(Texts.of(tokens.rows_of(sides[side]), side)).tolist()) == {length}
    distilled = corpus.sided(tokenizer, tmp_path / "distilled", readings, ["zh"])
    assert [len(store) for store in distilled.stores] == [2, 3, 7]


def test_rows_of_a_task_count_the_tokens_of_all_their_texts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [pair(0, text="q " * 7, text_neg=["n " * 5, "n"]), pair(1, source="b"), pair(2)]
    corpus = corpus_of(rows)
    tokens = corpus.sided(tokenizer, tmp_path / "tokens", dict.fromkeys((QUERY, PASSAGE, SYMMETRIC), Reading()))
    task = corpus.retrieval(tokens).task(2, tokens)
    assert task.tokens is not None and task.group is not None
    assert task.tokens.tolist() == [7 + 1 + 5 + 1, 2, 2]
    mined = corpus.retrieval(tokens).task(2, tokens, mined=3).tokens
    assert mined is not None and mined.tolist() == [14 + 3, 5, 5]  # a positive has one token
    assert task.group.tolist() == [0, 1, 0]
    plan = BatchPlan([task], 0, Schedule(batch_tokens=14))
    batches = [plan.batches(0, turn)[0] for turn in range(plan.steps(0))]
    assert sorted(len(batch.rows) for batch in batches) == [1, 2]
    names = {name for batch in batches for name in plan.names(batch)}
    assert names == {f"record {number}" for number in corpus.table["id"].to_pylist()}


def test_sample_and_languages_keep_their_order(tokenizer: Tokenizer) -> None:
    rows = [pair(3, lang="zh", text_neg=["n", "q1"]), pair(1), pair(2, lang="zh"), pair(1, text_pos="p3")]
    corpus = corpus_of(rows)
    assert corpus.sample(1000) == ["q3", "q1", "q2", "p3", "p1", "p2", "n"]
    assert corpus.texts_of_language("zh") == ["q3", "q2", "p3", "p2", "n", "q1"]
    some = corpus.sample(9)
    assert 7 < sum(map(len, some)) <= 9
    assert some == corpus.texts(np.arange(len(some)))  # in order of their ids


def test_dev_split_keeps_records_of_one_text_together_and_out_of_training() -> None:
    rows = [pair(k // 3, text_pos=f"p{k}") for k in range(300)] + [
        {"task": "cosent", "text": f"q{k}", "text_pair": "s", "label": float(k), "source": "b"} for k in range(100)
    ]
    corpus = corpus_of(rows)
    training, dev = corpus.split_dev(60, 5)
    assert len(dev) == 60
    assert len(training.table) == 340
    assert not set(dev["text"].to_pylist()) & set(training.table["text"].to_pylist())
    assert set(dev["task"].to_pylist()) == {"retri_contrast", "cosent"}
    assert training.digest == corpus.digest
    assert corpus.split_dev(60, 5)[1].equals(dev)
    assert not corpus.split_dev(60, 6)[1].equals(dev)
    mirrored = [GRADED | {"text": "s", "text_pair": f"q{k}", "label": float(k)} for k in range(100)]
    both = corpus_of([*rows, *mirrored])
    training, dev = both.split_dev(60, 5)
    kept = {(one["text"], one["text_pair"]) for one in dev.to_pylist() if one["task"] == "cosent"}
    left = {(one["text"], one["text_pair"]) for one in training.table.to_pylist() if one["task"] == "cosent"}
    assert kept
    assert not left & {(right, text) for text, right in kept}
    assert len(training.table) == 500 - len(dev) - len(kept)  # nothing else is missing
    with pytest.raises(UsageError, match=r"dev.rows: 201 of 400 records leave .*allowed: up to 200"):
        corpus.split_dev(201, 5)


GRADED = {"task": "cosent", "text": "q", "text_pair": "s", "source": "b"}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (GRADED, "no label, expected a grade"),
        (GRADED | {"label": float("nan")}, "label is out of range"),
        (GRADED | {"label": float("inf")}, "label is out of range"),
        (GRADED | {"label": -1e9}, r"label is out of range, expected a number within ±1e\+06"),
        (GRADED | {"label": 1.0, "text_pair": None}, "text_pair is empty"),
        ({"task": "cls_contrast", "text": "t", "source": "b"}, "text_pos is empty"),
        ({"task": "retri_contrast", "text": " \t", "text_pos": "p", "source": "b"}, "text is empty"),
        (
            {"task": "retri_contrast", "text": "q", "text_pos": "p", "text_neg": ["n", None], "source": "b"},
            "holds a nu",
        ),
        ({"task": "ranking", "text": "q", "source": "b"}, "no task of this name; allowed: retri_contrast, cosent"),
    ],
)
def test_record_that_cannot_be_trained_on_is_named_before_training(bad: dict[str, Any], message: str) -> None:
    good = [pair(0, text_neg=["n0"]), pair(1), {**GRADED, "text": "x", "label": 3.0}]
    record = pair_id(bad["task"], bad["text"], bad.get("text_pos") or bad.get("text_pair"))
    with pytest.raises(InputError, match=rf"^data/x: source b, {bad['task']} record {record}: .*{message}"):
        corpus_of([*good, bad, pair(2)]).check()
    corpus_of(good).check()


def test_further_records_like_a_bad_one_are_counted() -> None:
    with pytest.raises(InputError, match=r"no label, expected a grade \(2 more records like this\)"):
        corpus_of([pair(0), GRADED, GRADED, GRADED]).check()


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"pos_score": "high"}, "pos_score has 'high', expected finite numbers"),
        ({"neg_scores": [0.5]}, r"neg_scores is \[0.5\], expected 2: one for each text_neg"),
        ({"neg_scores": [0.5, None]}, "neg_scores has None"),
    ],
)
def test_scores_that_fit_no_texts_are_named(
    meta: dict[str, Any], message: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    corpus = corpus_of([pair(0), pair(1, text_neg=["n0", "n1"], meta=meta)])
    store = corpus.tokenised(tokenizer, tmp_path / "tokens")
    with pytest.raises(InputError, match=rf"source a, retri_contrast record \d+: {message}"):
        corpus.retrieval(store)
