"""Rows of a file to records: the layout that their columns show, and what makes a row unusable."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from components.core.carriers import Fault, is_text
from components.core.records import RAW_CHARACTERS
from components.core.sources import SourceParams, Task
from components.ingest import beir
from components.ingest.chats import first_exchange
from components.ingest.documents import split_title
from components.ingest.layouts import CLASS_TYPES, TASKS, Fit, candidates, fit, names_of
from components.ingest.pages import check_installed, page_reader

# Columns of FlagEmbedding that are kept in `meta` as they are: the task's instruction, and its kind.
_NOTES = ("prompt", "type")


class _BadRow(Exception):
    """Reason and detail of a row that gives no record, and whether it is dropped or quarantined."""

    def __init__(self, reason: str, detail: str, kind: str = "quarantined") -> None:
        super().__init__(reason, detail, kind)


class ColumnMap:
    """The columns of one source: as its parameters name them, or as the layouts of the field do.

    Raises UsageError if the source's parameters need what is not installed.
    """

    def __init__(self, source: SourceParams) -> None:
        if "pages" in source.model_fields_set:
            check_installed(source.pages)
        self.source = source
        self._by_type = source.layout in (None, "piccolo", "flagembedding")
        self._fits: dict[tuple[Task | None, tuple[str, ...]], Fit | str] = {}
        self._judged: beir.Judged | None = None
        self._meta: dict[str, Any] = {"repeat": source.repeat} if source.repeat > 1 else {}

    @property
    def wanted(self) -> list[str] | None:
        """Every column of a file that is worth reading; None where the order of all columns may count."""
        if self.source.layout == "sentence_transformers":
            return None
        forms = candidates(self.source, self.source.task)
        names = (name for form in forms for names in names_of(self.source, form).values() for name in names)
        return list(dict.fromkeys([*names, *self.source.where]))

    def selects(self, row: Mapping[str, Any]) -> bool:
        """Whether a row meets the source's condition. A number also equals its spelling, as CSV carries it."""
        return all(_equal(row.get(name), value) for name, value in self.source.where.items())

    def missing(self, header: Sequence[str]) -> str | None:
        """What a file with these columns lacks, in words; None if it has all that are required or named."""
        for name in self.source.where:
            if name not in header:
                return f"no column {name!r} for the source's 'where'; columns found: {', '.join(sorted(header))}"
        for role, name in self.source.columns.items():
            if name not in header:
                return f"no column {name!r} for {role}; columns found: {', '.join(sorted(header))}"
        found = fit(self.source, header)
        return found if isinstance(found, str) else None

    def records(self, row: Mapping[str, Any]) -> list[dict[str, Any]] | Fault:
        """The records of a row, without id: one, or for retrieval one for each positive passage."""
        try:
            return self._records(row)
        except _BadRow as error:
            reason, detail, kind = error.args
            return Fault(reason, _storable(detail), _raw(row), kind)

    def _records(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        found = self._fit(row)
        values: dict[str, Any] = {
            role: [row[name] for name in names] if role == "text_neg" else row[names[0]]
            for role, names in found.columns.items()
        }
        task = found.form.task
        meta, scores = dict(self._meta), None
        match found.form.layout:
            case "chat":
                values |= _chat(values)
            case "documents":
                values |= _document(values)
            case "pages":
                values |= self._page(values)
            case "beir":
                values |= self._judgement(values)
            case "flagembedding":
                meta |= {name: values[name] for name in _NOTES if isinstance(values.get(name), str)}
                scores = _scores("pos_scores", values.get("pos_scores"), len(_listed(values["text_pos"])))
        record: dict[str, Any] = {"task": task, "source": self.source.title}
        record["text"] = _text("text", values["text"])
        record["lang"] = _optional_text("lang", values) or self.source.lang
        record["url"] = _optional_text("url", values)
        record["meta"] = meta or None
        if task == "cosent":
            record["text_pair"] = _text("text_pair", values["text_pair"])
            record["label"] = self._label(values["label"])
            return [record]
        negatives = [each for value in values.get("text_neg", ()) for each in _listed(value)]
        record["text_neg"] = [_text("text_neg", each) for each in negatives] or None
        if values.get("neg_scores"):
            meta["neg_scores"] = _scores("neg_scores", values["neg_scores"], len(negatives))
            if not all(map(_is_visible, negatives)):  # the filter takes such a text out, but not its score
                raise _BadRow("empty_text", "text_neg has a text without a visible character, but with a score")
            record["meta"] = meta
        positives = _listed(values["text_pos"])
        if task == "cls_contrast" and len(positives) == 1 and type(positives[0]) is int:
            positives = [str(positives[0])]  # a class known by its number
        if not positives:
            raise _BadRow("empty_text", "text_pos is empty, expected at least one text")
        made = [{**record, "text_pos": _text("text_pos", each)} for each in positives]
        if scores:
            made = [{**each, "meta": {**meta, "pos_score": score}} for each, score in zip(made, scores, strict=True)]
        return made

    def _fit(self, row: Mapping[str, Any]) -> Fit:
        stated = _stated_task(row) if self._by_type else None
        key = (stated, tuple(row))
        if key not in self._fits:
            self._fits[key] = fit(self.source, list(row), stated)
        found = self._fits[key]
        if isinstance(found, str):
            raise _BadRow("missing_column", found)
        if found.form.layout == "piccolo" and "type" in row and not self.source.columns:
            task = self.source.task
            if (stated is None) if task is None else (stated not in (None, task)):
                raise _BadRow("wrong_type", f"type is {row['type']!r}, expected {task or ' or '.join(TASKS)}")
        return found

    def _page(self, values: Mapping[str, Any]) -> dict[str, Any]:
        html, url = values["html"], values.get("url")
        if isinstance(html, str):
            html = _text("html", html)
        elif not isinstance(html, bytes):
            raise _BadRow("bad_text", f"html is a {type(html).__name__}, expected a text or bytes")
        page = page_reader(self.source.pages).read(html, url if isinstance(url, str) else None)
        if isinstance(page, Fault):
            raise _BadRow(page.reason, page.detail)
        if not page.title or not page.text:
            side = "text" if page.title else "title"
            raise _BadRow(f"no_{side}", f"no {side} was found in the page", "dropped")
        return {"text": page.title, "text_pos": page.text}

    def _judgement(self, values: Mapping[str, Any]) -> dict[str, Any]:
        grade = beir.grade(values["grade"])
        if grade is None:
            raise _BadRow("bad_label", f"score is {values['grade']!r}, expected a number")
        if not grade > 0:
            raise _BadRow("not_relevant", f"score is {values['grade']}", "dropped")
        assert self.source.split is not None, self.source.uri
        if self._judged is None:
            self._judged = beir.judged_texts(self.source.uri, self.source.split)
        texts = self._judged
        query, passage = str(values["query"]), str(values["passage"])
        if query not in texts.queries:
            raise _BadRow("missing_text", f"no query {query!r} in queries.jsonl")
        if passage not in texts.passages:
            raise _BadRow("missing_text", f"no passage {passage!r} in corpus.jsonl")
        return {"text": texts.queries[query], "text_pos": texts.passages[passage]}

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


def _stated_task(row: Mapping[str, Any]) -> Task | None:
    """The task that a row's `type` says: Piccolo2's names, or FlagEmbedding's for classes."""
    stated = row.get("type")
    if stated in CLASS_TYPES:
        return "cls_contrast"
    return next((task for task in TASKS if stated == task), None)


def _chat(values: Mapping[str, Any]) -> dict[str, Any]:
    if "messages" in values:
        exchange = first_exchange(values["messages"])
        if isinstance(exchange, str):
            raise _BadRow("no_exchange", exchange)
        return {"text": exchange[0], "text_pos": exchange[1]}
    if not values.get("input"):
        return {}
    return {"text": f"{_text('text', values['text'])}\n{_text('input', values['input'])}"}


def _document(values: Mapping[str, Any]) -> dict[str, Any]:
    if "text" in values:
        title, text = values["text"], values["text_pos"]
    else:
        title, text = split_title(_text("text_pos", values["text_pos"]))
    for side, value in (("title", title), ("text", text)):
        if value is None or (isinstance(value, str) and not value.strip()):
            raise _BadRow(f"no_{side}", f"the document has no {side}", "dropped")
    return {"text": title, "text_pos": text}


def _scores(name: str, value: Any, count: int) -> list[float] | None:
    """A teacher's scores, one for each text; None if the row has none."""
    if value is None:
        return None
    numbers = value if isinstance(value, list) else [value]
    if len(numbers) != count or not all(type(each) in (int, float) and math.isfinite(each) for each in numbers):
        raise _BadRow("bad_scores", f"{name} is {str(value)[:80]}, expected {count} numbers")
    return numbers


def _text(role: str, value: Any) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _BadRow("empty_text", f"{role} is empty, expected a text")
    if not isinstance(value, str):
        raise _BadRow("bad_text", f"{role} is a {type(value).__name__} ({str(value)[:40]!r}), expected a text")
    if not value.isascii() and not is_text(value):
        raise _BadRow("invalid_utf8", f"{role} has half a surrogate pair, which is not Unicode text")
    return value


def _is_visible(text: str) -> bool:
    return any(character.isprintable() and not character.isspace() for character in text)


def _optional_text(role: str, values: Mapping[str, Any]) -> str | None:
    return _text(role, values[role]) if values.get(role) else None


def _equal(found: Any, wanted: str | float) -> bool:
    if isinstance(wanted, str) or not isinstance(found, str):
        return bool(found == wanted)
    try:
        return float(found) == wanted
    except ValueError:
        return False


def _raw(row: Mapping[str, Any]) -> str:
    """A row as it came, as far as a rejected row keeps it."""
    kept = {}
    for name, value in row.items():
        short = value[:RAW_CHARACTERS] if isinstance(value, (str, bytes)) else value
        kept[name] = short.decode("utf-8", "replace") if isinstance(short, bytes) else short
    return _storable(json.dumps(kept, ensure_ascii=False, default=str))


def _storable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _listed(value: Any) -> list[Any]:
    """A list column that may hold one bare value, or nothing."""
    if isinstance(value, list):
        return value
    return [] if value is None or value == "" else [value]
