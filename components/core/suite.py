"""Evaluation suites: what a model is measured on, and what training must therefore never see.

A suite is a list of tasks. Retrieval tasks come from held-out records or from a BEIR folder, similarity tasks from
held-out records or from a file of graded pairs. Filter reads them to keep their texts out of training; export and
evaluate measure on them; the suite digest says which measurements may be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from components.core.beir import find_beir
from components.core.carriers import carrier_of, read_good_cells, read_good_rows
from components.core.errors import InputError, UsageError
from components.core.fingerprint import canonical_json
from components.core.settings import Section

if TYPE_CHECKING:
    from components.core.manifest import Dataset

STS_COLUMNS = ("text", "text_pair", "label")
STS_LAYOUTS = (STS_COLUMNS, ("sentence1", "sentence2", "score"))


class SuiteParams(Section):
    """One task of the suite."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="Name of the task in every table of scores.")
    type: Literal["heldout", "beir", "sts"] = Field(description="Where the task comes from.")
    uri: str | None = Field(default=None, description="beir: its folder; sts: a file of rows.")
    split: str = Field(default="test", description="beir: the file qrels/<split>.tsv.")
    source: str | None = Field(default=None, description="heldout: take only the records of this source.")
    columns: dict[Literal["text", "text_pair", "label"], str] = Field(
        default_factory=dict, description="sts: the file's names of text, text_pair and label."
    )
    lang: str | None = Field(default=None, description="Language of the task; by default that of its texts' script.")

    @model_validator(mode="after")
    def _uri_fits_type(self) -> SuiteParams:
        if (self.uri is None) != (self.type == "heldout"):
            allowed = "takes no uri" if self.type == "heldout" else "needs a uri"
            raise ValueError(f"a suite entry of type {self.type} {allowed}")
        return self


DEFAULT_SUITE = (
    SuiteParams(name="pydoc", type="heldout", source="pydoc.summary"),
    SuiteParams(name="pydoc_named", type="heldout", source="pydoc.named"),
    SuiteParams(name="pydoc_structure", type="heldout", source="pydoc.structure"),
)


class EvaluateParams(Section):
    """Section `evaluate` of params.yaml: filter, export and evaluate read it."""

    suite: tuple[SuiteParams, ...] = Field(DEFAULT_SUITE, min_length=1, description="The tasks to measure on.")
    dims: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (1024, 768, 512, 256, 128, 64, 32),
        description="Dimensions to measure at, by truncation; those above a model's own are left out.",
    )
    examples: int = Field(12, ge=0, description="Hits and misses to keep for the report.")


@dataclass(frozen=True)
class RetrievalTask:
    """Queries [Q], passages [P], and for each query its relevant passages: passage index → gain (above zero)."""

    name: str
    lang: str
    query_texts: list[str]
    passage_texts: list[str]
    qrels: list[dict[int, float]]


@dataclass(frozen=True)
class StsTask:
    """Pairs of texts [N] with a graded similarity [N], higher = more alike."""

    name: str
    lang: str
    left: list[str]
    right: list[str]
    labels: list[float]


Task = RetrievalTask | StsTask


def load_suite(params: Sequence[SuiteParams], heldout_uri: str | None) -> list[Task]:
    """Load every task, in the order of `params`.

    Raises UsageError for two tasks of one name or a source that the held-out records do not have, InputError for
    files that are missing or malformed (naming file and row).
    """
    names = [entry.name for entry in params]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"evaluate.suite: two tasks are named {name!r}; each needs its own name")
    heldout = None
    tasks: list[Task] = []
    for entry in params:
        if entry.type == "beir":
            tasks.append(_load_beir(entry))
        elif entry.type == "sts":
            tasks.append(_load_sts(entry))
        else:
            if heldout is None:
                heldout = _open_heldout(entry, heldout_uri)
            tasks.append(_load_heldout(entry, heldout))
    return tasks


def suite_digest(tasks: Sequence[Task]) -> str:
    """SHA-256 (hex) of everything that decides a score: names, texts, judgements and labels of all tasks."""
    digest = hashlib.sha256()
    for task in tasks:
        parts: list[object]
        if isinstance(task, RetrievalTask):
            judgements = [sorted(gains.items()) for gains in task.qrels]
            parts = ["retrieval", task.name, task.query_texts, task.passage_texts, judgements]
        else:
            parts = ["sts", task.name, task.left, task.right, task.labels]
        digest.update(hashlib.sha256(canonical_json(parts).encode("utf-8", "surrogatepass")).digest())
    return digest.hexdigest()


def suite_texts(tasks: Sequence[Task]) -> list[str]:
    """Every text of the suite once, in order of first appearance."""
    return list(dict.fromkeys(text for task in tasks for side in task_texts(task) for text in side))


def task_texts(task: Task) -> tuple[list[str], list[str]]:
    """Both sides of a task: queries and passages, or left and right texts."""
    if isinstance(task, RetrievalTask):
        return task.query_texts, task.passage_texts
    return task.left, task.right


def script_language(texts: Iterable[str]) -> str:
    """`zh`, `ja`, `ko` or `en` (for Latin and all other scripts) by the letters of the texts.

    It only chooses tokens and teacher for the baselines of a task whose language nobody stated.
    """
    han = kana = hangul = letters = 0
    for text in texts:
        for character in text:
            code = ord(character)
            han += 0x3400 <= code <= 0x9FFF
            kana += 0x3040 <= code <= 0x30FF
            hangul += 0xAC00 <= code <= 0xD7AF
            letters += character.isalpha()
    if hangul > 0.3 * letters:
        return "ko"
    if kana > 0.1 * letters:
        return "ja"
    # a Chinese word takes two characters where an English one takes five: a third of the letters is most of the text
    return "zh" if han > 0.3 * letters else "en"


def _open_heldout(entry: SuiteParams, uri: str | None) -> Dataset:
    from components.core.manifest import Dataset

    if uri is None:
        raise UsageError(f"evaluate.suite: {entry.name}: type heldout needs the dataset of held-out records")
    return Dataset.open(uri)


def _load_heldout(entry: SuiteParams, heldout: Dataset) -> Task:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = heldout.read(["task", "text", "text_pos", "text_pair", "label", "source", "lang"])
    sources = ", ".join(sorted(set(table["source"].to_pylist()))) or "none"
    table = table.filter(pc.is_in(table["task"], pa.array(["retri_contrast", "cosent"])))
    if entry.source is not None:
        table = table.filter(pc.equal(table["source"], entry.source))
    where = f"evaluate.suite: {entry.name}: {heldout.uri}"
    if not len(table):
        wanted = f"of source {entry.source!r}" if entry.source else "for retrieval or similarity"
        raise UsageError(
            f"{where} has no records {wanted} (sources in it: {sources}); hold some out with ingest.sources[].holdout"
        )
    kinds = set(table["task"].to_pylist())
    if len(kinds) > 1:
        raise UsageError(f"{where} has retrieval and similarity records; name one source of {sources}")
    lang = entry.lang or _most_common(table["lang"].to_pylist())
    texts = table["text"].to_pylist()
    if kinds == {"cosent"}:
        pairs = table["text_pair"].to_pylist()
        return StsTask(entry.name, lang or script_language(texts), texts, pairs, table["label"].to_pylist())
    queries: dict[str, int] = {}
    passages: dict[str, int] = {}
    qrels: list[dict[int, float]] = []
    for query, passage in zip(texts, table["text_pos"].to_pylist(), strict=True):
        row = queries.setdefault(query, len(queries))
        if row == len(qrels):
            qrels.append({})
        qrels[row][passages.setdefault(passage, len(passages))] = 1.0
    return RetrievalTask(entry.name, lang or script_language(queries), list(queries), list(passages), qrels)


def _most_common(langs: Sequence[str | None]) -> str | None:
    counts: dict[str, int] = {}
    for lang in langs:
        if lang:
            counts[lang] = counts.get(lang, 0) + 1
    return max(sorted(counts), key=lambda lang: counts[lang]) if counts else None


def _load_beir(entry: SuiteParams) -> RetrievalTask:
    folder = find_beir(str(entry.uri))
    path = folder.qrels[folder.choose_split(entry.split)]
    passages: dict[str, int] = {}
    passage_texts: list[str] = []
    for where, row in read_good_rows(folder.corpus):
        identifier, text, title = _field(row, "_id", where), _field(row, "text", where), str(row.get("title") or "")
        if identifier in passages:
            raise InputError(f"{where}: _id {identifier!r} appears twice")
        passages[identifier] = len(passage_texts)
        # some collections repeat the title at the head of the text; others keep it apart
        passage_texts.append(text if text.startswith(title) else f"{title} {text}".strip())
    queries: dict[str, str] = {}
    for where, row in read_good_rows(folder.queries):
        queries[_field(row, "_id", where)] = _field(row, "text", where)
    judged: dict[str, dict[int, float]] = {}
    for where, query, passage, gain in _judgements(path):
        if query not in queries:
            raise InputError(f"{where}: no query {query!r} in {folder.queries}")
        if passage not in passages:
            raise InputError(f"{where}: no passage {passage!r} in {folder.corpus}")
        if gain > 0:
            judged.setdefault(query, {})[passages[passage]] = gain
    if not judged:
        raise InputError(f"{path}: no judgement above zero")
    texts = [queries[query] for query in judged]
    return RetrievalTask(entry.name, entry.lang or script_language(texts), texts, passage_texts, list(judged.values()))


def _judgements(path: str) -> Iterator[tuple[str, str, str, float]]:
    """Place, query id, passage id and grade: of TSV with or without a header or in TREC's layout, or of rows."""
    carrier = carrier_of(path)
    if carrier is None or carrier.format != "tsv":
        for where, row in read_good_rows(path):
            gain = _field(row, "score", where) if not isinstance(row.get("score"), float) else str(row["score"])
            if not _is_number(gain):
                raise InputError(f"{where}: 'score' must be a number, found {gain!r}")
            yield where, _field(row, "query-id", where), _field(row, "corpus-id", where), float(gain)
        return
    for where, cells in read_good_cells(path):
        if where.endswith(":1") and not _is_number(cells[-1]):
            continue  # header
        if len(cells) == 4:  # TREC: query, iteration, passage, grade
            cells = [cells[0], cells[2], cells[3]]
        if len(cells) != 3 or not _is_number(cells[2]):
            raise InputError(f"{where}: expected query-id, corpus-id and a numeric score, separated by tabs")
        yield where, cells[0], cells[1], float(cells[2])


def _load_sts(entry: SuiteParams) -> StsTask:
    left: list[str] = []
    right: list[str] = []
    labels: list[float] = []
    names: tuple[str, ...] | None = None
    for where, row in read_good_rows(str(entry.uri)):
        if names is None:
            layout = next((layout for layout in STS_LAYOUTS if all(name in row for name in layout)), STS_COLUMNS)
            names = tuple(entry.columns.get(role, name) for role, name in zip(STS_COLUMNS, layout, strict=True))  # type: ignore[call-overload]
        left.append(_field(row, names[0], where))
        right.append(_field(row, names[1], where))
        label = row.get(names[2])
        if label is None or isinstance(label, bool) or not _is_number(str(label)):
            raise InputError(f"{where}: {names[2]!r} must be a number, found {label!r}; name columns in evaluate.suite")
        labels.append(float(label))
    if not labels:
        raise InputError(f"{entry.uri}: no rows")
    return StsTask(entry.name, entry.lang or script_language(left), left, right, labels)


def _field(row: dict[str, object], name: str, where: str) -> str:
    value = row.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        columns = ", ".join(row)
        raise InputError(f"{where}: {name!r} must be text, found {value!r} (columns: {columns})")
    return value


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False
