"""What a run left behind: the ledgers and result files, read and checked, as plain typed values."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.core import storage
from components.core.errors import InputError
from components.core.ledger import Ledger
from components.core.manifest import Dataset
from components.report.charts import Bin

# The measure that stands for a task, the first that the task has.
MAIN_METRICS = ("ndcg_at_10", "spearman")


@dataclass(frozen=True)
class Histogram:
    """Scores that one teacher gave. `threshold` is None where nothing was dropped by score."""

    name: str
    bins: tuple[Bin, ...]
    threshold: float | None


@dataclass(frozen=True)
class Loss:
    """One logged loss of a task."""

    step: int
    task: str
    loss: float
    lr: float


@dataclass(frozen=True)
class Measured:
    """One value on the dev set while a phase was trained, in percent; `best`: of the step that was the best."""

    step: int
    task: str
    metric: str
    value: float
    best: bool


@dataclass(frozen=True)
class Hardness:
    """Mined negatives at one step: mean cosines of the batch (None: none seen), queries with new ones, what is left."""

    step: int
    kind: str
    positive: float | None
    negative: float | None
    replaced: int
    left: float


@dataclass(frozen=True)
class Quality:
    """One measured value in percent. `dim` and `bytes_per_vector` are None for a system without vectors."""

    system: str
    task: str
    dim: int | None
    metric: str
    value: float
    bytes_per_vector: int | None


@dataclass(frozen=True)
class Hit:
    """A passage that came back."""

    text: str
    score: float
    right: bool


@dataclass(frozen=True)
class Example:
    """A query, its right passage and what came back. `rank` counts from 1; None: not among those looked at."""

    task: str
    query: str
    passage: str
    rank: int | None
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Rule:
    """A rule of the gate and what came of it."""

    held: bool
    text: str


@dataclass(frozen=True)
class Registered:
    """The registered version of the model; `score` is the mean over its tasks, in percent.

    `champion_version` is None while no version has passed the gate.
    """

    name: str
    version: int
    gate: str
    champion_version: int | None
    score: float
    suite_digest: str
    data_version: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Evidence:
    """Everything the report shows."""

    ledgers: Mapping[str, Ledger]  # by step, in the order of the chain
    heldout_rows: int
    histograms: tuple[Histogram, ...]
    losses: Mapping[str, tuple[Loss, ...]]  # by phase
    dev: Mapping[str, tuple[Measured, ...]]  # by phase
    hardness: tuple[Hardness, ...]
    quality: tuple[Quality, ...]
    examples: tuple[Example, ...]
    registered: Registered


def read_evidence(inputs: Mapping[str, str]) -> Evidence:
    """Read every input of the step. Raises InputError naming the file, and the row or key that cannot be used."""
    return Evidence(
        ledgers={step: Dataset.open(inputs[step]).ledger for step in ("ingest", "filter", "score")},
        heldout_rows=Dataset.open(inputs["heldout"]).rows,
        histograms=read_histograms(inputs["histogram"]),
        losses={phase: read_losses(inputs[f"{phase}_loss"]) for phase in ("pretrain", "finetune")},
        dev={phase: read_dev(inputs[f"{phase}_dev"]) for phase in ("pretrain", "finetune")},
        hardness=read_hardness(inputs["negatives"]),
        quality=read_quality(inputs["quality"]),
        examples=read_examples(inputs["examples"]),
        registered=read_registered(inputs["version"]),
    )


def read_json(uri: str) -> Any:
    """The value of a JSON file."""
    try:
        return json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise InputError(f"{uri}: not valid JSON ({error})") from None


def read_object(uri: str) -> dict[str, Any]:
    """A JSON file that holds an object."""
    value = read_json(uri)
    if not isinstance(value, dict):
        raise InputError(f"{uri}: expected a JSON object, found {type(value).__name__}")
    return value


def read_rows(uri: str, columns: Mapping[str, Callable[[str], Any]]) -> list[dict[str, Any]]:
    """Rows of a CSV file with a header, the named columns converted. An empty file has no rows."""
    try:
        reader = csv.DictReader(io.StringIO(storage.read_bytes(uri).decode("utf-8"), newline=""))
    except UnicodeDecodeError as error:
        raise InputError(f"{uri}: not UTF-8 at byte {error.start}") from None
    if reader.fieldnames is None:
        return []
    for name in columns:
        if name not in reader.fieldnames:
            raise InputError(f"{uri}: no column {name!r}; found {', '.join(reader.fieldnames)}")
    rows = []
    for row in reader:
        try:
            rows.append({name: convert(row[name] or "") for name, convert in columns.items()})
        except ValueError as error:
            raise InputError(f"{uri}: line {reader.line_num}: {error}") from None
    return rows


def optional_int(text: str) -> int | None:
    """A positive whole number; an empty cell or zero stands for none."""
    return int(text) or None if text else None


def optional_float(text: str) -> float | None:
    """A number, or None for an empty cell."""
    return float(text) if text else None


def read_losses(uri: str) -> tuple[Loss, ...]:
    """The loss log of one training phase, by step; a value that is not finite is left out."""
    rows = read_rows(uri, {"step": int, "task": str, "loss": float, "lr": float})
    return tuple(Loss(**row) for row in rows if math.isfinite(row["loss"]))


def read_dev(uri: str) -> tuple[Measured, ...]:
    """The measurements on the dev set of one training phase, by step."""
    columns: dict[str, Callable[[str], Any]] = {
        "step": int, "task": str, "metric": str, "value": float, "best": lambda text: bool(int(text)),
    }  # fmt: skip
    return tuple(Measured(**row) for row in read_rows(uri, columns))


def read_hardness(uri: str) -> tuple[Hardness, ...]:
    """How hard mined negatives were, by step."""
    columns: dict[str, Callable[[str], Any]] = {
        "step": int, "kind": str, "positive": optional_float, "negative": optional_float, "replaced": int,
        "left": float,
    }  # fmt: skip
    return tuple(Hardness(**row) for row in read_rows(uri, columns))


def read_quality(uri: str) -> tuple[Quality, ...]:
    """The measured values of every system, task and dimension."""
    columns: dict[str, Callable[[str], Any]] = {
        "system": str, "task": str, "dim": optional_int, "metric": str, "value": float,
        "bytes_per_vector": optional_int,
    }  # fmt: skip
    return tuple(Quality(**row) for row in read_rows(uri, columns))


def read_histograms(uri: str) -> tuple[Histogram, ...]:
    """Score histograms, one for each teacher."""
    columns: dict[str, Callable[[str], Any]] = {
        "teacher": str, "low": float, "high": float, "rows": int, "threshold": optional_float,
    }  # fmt: skip
    by_teacher: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(uri, columns):
        by_teacher.setdefault(row["teacher"], []).append(row)
    return tuple(
        Histogram(teacher, tuple(Bin(row["low"], row["high"], row["rows"]) for row in rows), rows[0]["threshold"])
        for teacher, rows in sorted(by_teacher.items())
    )


def read_examples(uri: str) -> tuple[Example, ...]:
    """Hits and misses, in the order of the file."""
    try:
        return tuple(
            Example(
                str(one["task"]),
                str(one["query"]),
                str(one["passage"]),
                None if one["rank"] is None else int(one["rank"]),
                tuple(Hit(str(hit["text"]), float(hit["score"]), bool(hit["right"])) for hit in one["hits"]),
            )
            for one in read_json(uri)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{uri}: not a list of examples ({type(error).__name__}: {error})") from None


def read_registered(uri: str) -> Registered:
    """What `register` decided."""
    value = read_object(uri)
    try:
        champion = value["champion_version"]
        return Registered(
            str(value["name"]),
            int(value["version"]),
            str(value["gate"]),
            None if champion is None else int(champion),
            float(value["score"]),
            str(value["suite_digest"]),
            str(value["data_version"]),
            tuple(Rule(bool(rule["held"]), str(rule["text"])) for rule in value["rules"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{uri}: not a registered version ({type(error).__name__}: {error})") from None


def main_metric(quality: Sequence[Quality], task: str) -> str:
    """The measure that stands for this task."""
    found = {one.metric for one in quality if one.task == task}
    return next((metric for metric in MAIN_METRICS if metric in found), min(found))
