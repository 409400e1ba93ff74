from __future__ import annotations

from typing import Any

import pytest

from components.core.carriers import Fault
from components.core.sources import SourceParams
from components.ingest.columns import ColumnMap


def records(task: str, row: dict[str, Any], **entry: Any) -> list[dict[str, Any]] | Fault:
    source = SourceParams.model_validate({"uri": "x.jsonl", "task": task, **entry})
    found = ColumnMap(source).records(row)
    if isinstance(found, Fault):
        return found
    return [{key: value for key, value in each.items() if value is not None} for each in found]


def made(task: str, **fields: Any) -> dict[str, Any]:
    return {"task": task, "source": "x", **fields}


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        ("retri_contrast", {"text": "q", "text_pos": "p"}, {"text": "q", "text_pos": "p"}),
        ("retri_contrast", {"query": "q", "pos": "p", "neg": "n"}, {"text": "q", "text_pos": "p", "text_neg": ["n"]}),
        ("retri_contrast", {"anchor": "q", "positive": "p"}, {"text": "q", "text_pos": "p"}),
        ("retri_contrast", {"query": "q", "pos": ["p"], "neg": []}, {"text": "q", "text_pos": "p"}),
        ("cosent", {"text": "a", "text_pair": "b", "label": 1}, {"text": "a", "text_pair": "b", "label": 1.0}),
        ("cosent", {"sentence1": "a", "sentence2": "b", "score": "3.5"}, {"text": "a", "text_pair": "b", "label": 3.5}),
        ("cls_contrast", {"text": "a", "label": "card lost"}, {"text": "a", "text_pos": "card lost"}),
        ("cls_contrast", {"text": "a", "label": 7}, {"text": "a", "text_pos": "7"}),
        ("cls_contrast", {"text": "a", "text_pos": "x", "neg": "y"}, {"text": "a", "text_pos": "x", "text_neg": ["y"]}),
        ("cls_contrast", {"text": "a", "label": "b", "lang": "zh"}, {"text": "a", "text_pos": "b", "lang": "zh"}),
    ],
)  # fmt: skip
def test_known_layouts_need_no_columns(task: str, row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert records(task, row) == [made(task, **expected)]


def test_named_columns_win_over_known_ones() -> None:
    row = {"text": "no", "title": "yes", "abstract": "p"}
    found = records("retri_contrast", row, columns={"text": "title", "text_pos": "abstract"}, lang="en")
    assert found == [made("retri_contrast", text="yes", text_pos="p", lang="en")]


def test_each_positive_passage_is_a_record() -> None:
    found = records("retri_contrast", {"query": "q", "pos": ["p1", "p2"], "neg": ["n"]})
    expected = [made("retri_contrast", text="q", text_pos=pos, text_neg=["n"]) for pos in ("p1", "p2")]
    assert found == expected


def test_label_texts_are_translated() -> None:
    labels = {"entailment": 1, "neutral": 0.5, "contradiction": 0}
    row = {"text": "a", "text_pair": "b", "label": "neutral"}
    assert records("cosent", row, labels=labels) == [made("cosent", text="a", text_pair="b", label=0.5)]


@pytest.mark.parametrize(
    ("task", "row", "reason", "detail"),
    [
        ("cosent", {"text": "a", "text_pair": "b", "label": "neutral"}, "bad_label", "'neutral', expected a number"),
        ("cosent", {"text": "a", "text_pair": "b", "label": None}, "bad_label", "None"),
        ("cosent", {"text": "a", "text_pair": "b", "label": "nan"}, "bad_label", "nan"),
        ("cosent", {"text": "a", "text_pair": "b"}, "missing_column", "for label; columns found: text, text_pair"),
        ("cosent", {"text": " ", "text_pair": "b", "label": 1}, "empty_text", "text is empty"),
        ("cosent", {"text": "a", "text_pair": None, "label": 1}, "empty_text", "text_pair is empty"),
        ("retri_contrast", {"query": 5, "pos": "p"}, "bad_text", "text is a int ('5'), expected a text"),
        ("retri_contrast", {"query": "q", "pos": []}, "empty_text", "text_pos is empty"),
        ("retri_contrast", {"query": "q", "pos": ["p", ""]}, "empty_text", "text_pos is empty"),
        ("retri_contrast", {"query": "q", "pos": "p", "neg": ["n", {}]}, "bad_text", "text_neg is a dict"),
        ("retri_contrast", {"query": "\ud800", "pos": "p"}, "invalid_utf8", "half a surrogate pair"),
        ("retri_contrast", {"\ud800": "q", "pos": "p"}, "missing_column", "columns found: pos, \\ud800"),
        ("cosent", {"text": "a", "text_pair": "b", "label": 10**400}, "bad_label", "expected a number"),
    ],
)  # fmt: skip
def test_a_row_that_gives_no_record_says_why(task: str, row: dict[str, Any], reason: str, detail: str) -> None:
    fault = records(task, row)
    assert isinstance(fault, Fault)
    assert fault.reason == reason
    assert detail in fault.detail
    (fault.raw + fault.detail).encode()


def test_a_header_without_a_needed_or_named_column_is_reported() -> None:
    columns = ColumnMap(SourceParams(uri="x.csv", task="retri_contrast", columns={"text_neg": "hard"}))
    assert columns.missing(["query", "pos", "hard"]) is None
    assert columns.missing(["query", "hard"]) == (
        "no column 'pos' or 'positive' or 'answer' or 'passage' or 'sentence2' or 'sentence_1' or 'text_pos' for "
        "text_pos; columns found: hard, query "
        "(the source's 'columns' can name another)"
    )
    assert "no column 'hard' for text_neg" in str(columns.missing(["query", "pos"]))
