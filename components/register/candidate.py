"""What is to be registered: the model's files, what was measured, and the data it came from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core import storage
from components.core.errors import InputError
from components.core.fingerprint import digest_file, digest_json, digest_weights
from components.core.manifest import Dataset

MODEL = "model"
DATASETS = ("ingest", "heldout", "filter", "score")


@dataclass(frozen=True)
class Measured:
    """One measured value in percent; `dim` is None for a system without vectors."""

    system: str
    task: str
    dim: int | None
    metric: str
    value: float


@dataclass(frozen=True)
class Candidate:
    """A model with all that identifies it. Digests are SHA-256 (hex); `score` is its headline value in percent.

    `tasks` gives the metric that stands for each task, in the order of the suite.
    """

    folder: Path
    weights: str
    model_digest: str
    score: float
    suite: str
    tasks: Mapping[str, str]
    measured: tuple[Measured, ...]
    datasets: Mapping[str, Dataset]

    @property
    def data_version(self) -> str:
        """Digest of what it was trained on and measured with."""
        return digest_json([self.datasets["score"].digest, self.datasets["heldout"].digest])

    @property
    def identity(self) -> str:
        """Digest of the model, what was measured, and the data: registering the same again must change nothing."""
        values = sorted([one.system, one.task, one.dim or 0, one.metric, one.value] for one in self.measured)
        return digest_json([self.model_digest, self.score, self.suite, values, self.data_version])

    @property
    def dims(self) -> int:
        """The full dimension of the model's vectors."""
        return max(one.dim or 0 for one in self.measured if one.system == MODEL)

    def value(self, system: str, task: str, metric: str, dim: int | None) -> float | None:
        """A measured value; `dim` None means the system's full dimension, and so does a system without vectors."""
        found = [one for one in self.measured if (one.system, one.task, one.metric) == (system, task, metric)]
        if dim is not None and any(one.dim for one in found):
            found = [one for one in found if one.dim == dim]
        return max(found, key=lambda one: one.dim or 0).value if found else None


def read_candidate(folder: Path, inputs: Mapping[str, str]) -> Candidate:
    """Read the step's inputs; `folder` is the model, or a copy of it.

    Raises InputError naming the file and what is wrong with it.
    """
    files = {
        path.relative_to(folder).as_posix(): digest_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    if "modules.json" not in files or not any(name.endswith(".safetensors") for name in files):
        raise InputError(f"{inputs['model']}: not a sentence-transformers folder with safetensors weights")
    metrics = read_object(inputs["metrics"])
    for key, kind in (("score", (int, float)), ("suite_digest", str), ("tasks", dict)):
        if not isinstance(metrics.get(key), kind):
            raise InputError(f"{inputs['metrics']}: no usable {key!r}; run the step evaluate")
    measured = _read_measured(inputs["quality"])
    if not any(one.system == MODEL and one.dim for one in measured):
        raise InputError(f"{inputs['quality']}: no value measured for the system {MODEL!r}")
    return Candidate(
        folder,
        digest_weights(folder),
        digest_json(files),
        float(metrics["score"]),
        metrics["suite_digest"],
        metrics["tasks"],
        measured,
        {name: Dataset.open(inputs[name]) for name in DATASETS},
    )


def read_object(uri: str) -> dict[str, Any]:
    """A JSON file that holds an object. Raises InputError if it does not."""
    try:
        value = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise InputError(f"{uri}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{uri}: expected a JSON object, found {type(value).__name__}")
    return value


def read_table(uri: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header. Raises InputError if a column is missing."""
    reader = csv.DictReader(io.StringIO(storage.read_bytes(uri).decode("utf-8"), newline=""))
    rows = list(reader)
    for name in columns:
        if rows and name not in (reader.fieldnames or ()):
            raise InputError(f"{uri}: no column {name!r}; found {', '.join(reader.fieldnames or ())}")
    return rows


def _read_measured(uri: str) -> tuple[Measured, ...]:
    rows = read_table(uri, ("system", "task", "dim", "metric", "value"))
    try:
        return tuple(
            Measured(row["system"], row["task"], int(row["dim"] or 0) or None, row["metric"], float(row["value"]))
            for row in rows
        )
    except ValueError as error:
        raise InputError(f"{uri}: {error}") from None
