"""Feedback files: what users searched, clicked and skipped, checked row by row and brought to one form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from components.core.fingerprint import canonical_json

RAW_CHARACTERS = 2000


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its line (from 1), why, and its text (cut to 2,000 characters)."""

    line: int
    reason: str
    text: str


@dataclass(frozen=True)
class Feedback:
    """One feedback file: usable rows `{"query", "clicked", "skipped", "id"?}`, and those that are not."""

    rows: list[dict[str, Any]]
    bad: list[BadRow]

    def encode(self) -> bytes:
        """The usable rows in one form, a JSON object a line: equal rows give equal bytes."""
        return _lines(self.rows)

    def encode_bad(self) -> bytes:
        """The unusable rows, each with its line and reason."""
        return _lines({"line": row.line, "reason": row.reason, "text": row.text} for row in self.bad)


def parse_feedback(data: bytes) -> Feedback:
    """Read JSON lines. Blank lines are skipped, keys that are not feedback are left out, bad rows are kept apart."""
    rows: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_parse_row(line))
        except ValueError as error:
            bad.append(BadRow(number, str(error), line.decode("utf-8", "replace").strip()[:RAW_CHARACTERS]))
    return Feedback(rows, bad)


def _parse_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not valid UTF-8") from None
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("not valid JSON") from None
    if not isinstance(row, dict):
        raise ValueError(f"a JSON object is wanted, found {type(row).__name__}")
    query, clicked = _text(row, "query"), _text(row, "clicked")
    skipped = row.get("skipped")
    if skipped is None:
        skipped = []
    if not isinstance(skipped, list) or not all(isinstance(text, str) and text.strip() for text in skipped):
        raise ValueError("'skipped' must be a list of texts that are not empty")
    if clicked in skipped:
        raise ValueError("the clicked passage is also in 'skipped'")
    result: dict[str, Any] = {"query": query, "clicked": clicked, "skipped": list(dict.fromkeys(skipped))}
    if row.get("id") is not None:
        result["id"] = str(row["id"])
    _check_encodable(result)
    return result


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        found = f"missing key '{key}'" if key not in row else f"'{key}' must be a text that is not empty"
        raise ValueError(found)
    return value


def _check_encodable(row: dict[str, Any]) -> None:
    try:
        canonical_json(row).encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half of a surrogate pair") from None


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"{canonical_json(row)}\n" for row in rows).encode()
