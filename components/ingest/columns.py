"""Rows of a file to records: which column plays which role, and what makes a row unusable."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

from components.core.carriers import Fault, is_text
from components.core.sources import Column, SourceParams

# Names that people use, by role; the record's own name comes first. Those of sentence-transformers, FlagEmbedding,
# Piccolo2 and the STS files are among them.
ALIASES: Mapping[str, Mapping[Column, tuple[str, ...]]] = {
    "retri_contrast": {
        "text": ("text", "query", "anchor", "sentence1"),
        "text_pos": ("text_pos", "pos", "positive", "sentence2"),
        "text_neg": ("text_neg", "neg", "negative"),
    },
    "cosent": {
        "text": ("text", "sentence1"),
        "text_pair": ("text_pair", "sentence2"),
        "label": ("label", "score"),
    },
    "cls_contrast": {
        "text": ("text", "query"),
        "text_pos": ("text_pos", "label"),
        "text_neg": ("text_neg", "neg"),
    },
}
EVERY_TASK: Mapping[Column, tuple[str, ...]] = {"text_neg": (), "lang": ("lang",), "url": ("url",)}


class _BadRow(Exception):
    """Reason and detail of a row that gives no record."""


class ColumnMap:
    """The columns of one source: as its parameters name them, or by ALIASES."""

    def __init__(self, source: SourceParams) -> None:
        assert source.task is not None
        self.task: str = source.task
        self.source = source
        named: dict[Column, tuple[str, ...]] = {role: (name,) for role, name in source.columns.items()}
        self.names: dict[Column, tuple[str, ...]] = {**EVERY_TASK, **ALIASES[self.task], **named}
        self.required: list[Column] = [role for role in ALIASES[self.task] if role != "text_neg"]

    @property
    def wanted(self) -> list[str]:
        """Every column of a file that is worth reading."""
        return [*(name for names in self.names.values() for name in names), *self.source.where]

    def selects(self, row: Mapping[str, Any]) -> bool:
        """Whether a row meets the source's condition. A number also equals its spelling, as CSV carries it."""
        return all(_equal(row.get(name), value) for name, value in self.source.where.items())

    def missing(self, header: Sequence[str]) -> str | None:
        """What a file with these columns lacks, in words; None if it has all that are required or named."""
        for name in self.source.where:
            if name not in header:
                return f"no column {name!r} for the source's 'where'; columns found: {', '.join(sorted(header))}"
        roles = dict.fromkeys([*self.required, *self.source.columns])
        return next((self._lacks(role, header) for role in roles if self._column(role, header) is None), None)

    def records(self, row: Mapping[str, Any]) -> list[dict[str, Any]] | Fault:
        """The records of a row, without id and meta: one, or for retrieval one for each positive passage."""
        try:
            return self._records(row)
        except _BadRow as error:
            reason, detail = error.args
            return Fault(reason, _storable(detail), _storable(json.dumps(row, ensure_ascii=False, default=str)))

    def _records(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        for role in self.required:
            if self._column(role, row) is None:
                raise _BadRow("missing_column", self._lacks(role, row))
        record: dict[str, Any] = {"task": self.task, "source": self.source.title}
        record["text"] = self._text("text", self._value("text", row))
        record["lang"] = self._optional_text("lang", row) or self.source.lang
        record["url"] = self._optional_text("url", row)
        if self.task == "cosent":
            record["text_pair"] = self._text("text_pair", self._value("text_pair", row))
            record["label"] = self._label(self._value("label", row))
            return [record]
        record["text_neg"] = [self._text("text_neg", each) for each in _listed(self._value("text_neg", row))] or None
        positives = _listed(self._value("text_pos", row))
        if self.task == "cls_contrast" and len(positives) == 1 and type(positives[0]) is int:
            positives = [str(positives[0])]  # a class known by its number
        if not positives:
            raise _BadRow("empty_text", "text_pos is empty, expected at least one text")
        return [{**record, "text_pos": self._text("text_pos", each)} for each in positives]

    def _column(self, role: Column, present: Container[str]) -> str | None:
        return next((name for name in self.names[role] if name in present), None)

    def _value(self, role: Column, row: Mapping[str, Any]) -> Any:
        name = self._column(role, row)
        return None if name is None else row[name]

    def _text(self, role: Column, value: Any) -> str:
        if value is None or (isinstance(value, str) and not value.strip()):
            raise _BadRow("empty_text", f"{role} is empty, expected a text")
        if not isinstance(value, str):
            raise _BadRow("bad_text", f"{role} is a {type(value).__name__} ({str(value)[:40]!r}), expected a text")
        if not value.isascii() and not is_text(value):
            raise _BadRow("invalid_utf8", f"{role} has half a surrogate pair, which is not Unicode text")
        return value

    def _optional_text(self, role: Column, row: Mapping[str, Any]) -> str | None:
        value = self._value(role, row)
        return self._text(role, value) if value else None

    def _label(self, value: Any) -> float:
        if str(value) in self.source.labels:
            return self.source.labels[str(value)]
        try:
            label = float(value)
        except (TypeError, ValueError, OverflowError):
            label = math.nan
        if math.isfinite(label):
            return label
        allowed = ", ".join(self.source.labels) or "'labels' of the source can translate texts"
        raise _BadRow("bad_label", f"label is {value!r}, expected a number ({allowed})")

    def _lacks(self, role: Column, present: Iterable[str]) -> str:
        wanted = " or ".join(repr(name) for name in self.names[role])
        found = ", ".join(sorted(map(str, present))) or "none"
        return f"no column {wanted} for {role}; columns found: {found} (the source's 'columns' can name another)"


def _equal(found: Any, wanted: str | float) -> bool:
    if isinstance(wanted, str) or not isinstance(found, str):
        return bool(found == wanted)
    try:
        return float(found) == wanted
    except ValueError:
        return False


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _listed(value: Any) -> list[Any]:
    """A list column that may hold one bare value, or nothing."""
    if isinstance(value, list):
        return value
    return [] if value is None or value == "" else [value]
