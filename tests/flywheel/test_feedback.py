"""Feedback rows: what is taken, what is set aside and why, and that equal rows give equal bytes."""

from __future__ import annotations

import json

import pytest

from components.flywheel.feedback import parse_feedback

ROW = {"query": "read csv", "clicked": "csv.reader", "skipped": ["csv.writer"]}


def test_rows_are_brought_to_one_form() -> None:
    other_order = '{"skipped": ["csv.writer", "csv.writer"], "time": 5, "clicked": "csv.reader", "query": "read csv"}'
    data = f"\ufeff{json.dumps(ROW)}\r\n\n{other_order}\n".encode()
    feedback = parse_feedback(data)
    assert feedback.bad == []
    assert feedback.rows == [ROW, ROW]
    first, second = feedback.encode().decode().splitlines()
    assert first == second == '{"clicked":"csv.reader","query":"read csv","skipped":["csv.writer"]}'


def test_what_is_optional() -> None:
    rows = parse_feedback(
        b'{"query": "a", "clicked": "b", "skipped": null, "id": 7}\n{"query": "a", "clicked": "b"}'
    ).rows
    assert rows == [
        {"query": "a", "clicked": "b", "skipped": [], "id": "7"},
        {"query": "a", "clicked": "b", "skipped": []},
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\xff\xfe", "not valid UTF-8"),
        (b'{"query": "a"', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'["a"]', "a JSON object is wanted, found list"),
        (b'{"clicked": "b"}', "missing key 'query'"),
        (b'{"query": " ", "clicked": "b"}', "'query' must be a text that is not empty"),
        (b'{"query": "a", "clicked": 5}', "'clicked' must be a text that is not empty"),
        (b'{"query": "a", "clicked": "b", "skipped": "c"}', "'skipped' must be a list of texts that are not empty"),
        (b'{"query": "a", "clicked": "b", "skipped": ["b"]}', "the clicked passage is also in 'skipped'"),
        (b'{"query": "\\ud800", "clicked": "b"}', "a text holds half of a surrogate pair"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_line(line: bytes, reason: str) -> None:
    feedback = parse_feedback(json.dumps(ROW).encode() + b"\n" + line + b"\n" + json.dumps(ROW).encode())
    assert len(feedback.rows) == 2
    assert [(bad.line, bad.reason) for bad in feedback.bad] == [(2, reason)]
    kept = json.loads(feedback.encode_bad())
    assert kept["line"] == 2
    assert len(kept["text"]) <= 2000
