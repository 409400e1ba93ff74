"""The evaluate step: one suite, every system, every dimension; then the files that gate, report and people read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import storage
from components.core.measure import Scores, embed_tasks, main_metric, measure, measure_embedded
from components.core.progress import Progress
from components.core.step import Context
from components.core.suite import EvaluateParams, StsTask, Task, load_suite, suite_digest
from components.core.teacher import ScoreParams, short_name
from components.evaluate.examples import find_examples
from components.evaluate.lexical import bm25, tfidf
from components.training.encoder import WORDLLAMA, Encoder, open_encoder
from components.training.vectors import TEACHER_CACHE, encode_cached

MODEL, PRETRAINED = "model", "pretrained"
# Dimension under which a system without vectors is listed.
NO_VECTOR = 0
COLUMNS = ("system", "task", "dim", "metric", "value", "bytes_per_vector")
BYTES_PER_VALUE = 4
# Teachers that were themselves trained to be cut.
MATRYOSHKA_TEACHERS = (WORDLLAMA,)

Measured = dict[str, dict[str, dict[int, Scores]]]  # system → task → dimension → metric → percent


def run(context: Context) -> None:
    """Measure model, pretrained model, teachers and lexical baselines on the suite."""
    params = context.section(EvaluateParams)
    tasks = load_suite(params.suite, context.inputs["heldout"])
    model = open_encoder(context.inputs["model"])
    embedded = embed_tasks(model, tasks, model.prompts)
    pairs = zip(tasks, embedded, strict=True)
    measured: Measured = {MODEL: {task.name: measure_embedded(task, each, params.dims) for task, each in pairs}}
    before = open_encoder(context.inputs["pretrained"])
    measured[PRETRAINED] = measure(before, tasks, params.dims, before.prompts)
    measured |= _measure_teachers(tasks, context.section(ScoreParams), params.dims, context.workers)
    measured |= _measure_lexical(tasks)
    metrics = _metrics(tasks, measured)
    storage.write_bytes(context.outputs["quality"], _quality_csv(measured))
    storage.write_bytes(context.outputs["examples"], _json(find_examples(tasks, embedded, params.examples)))
    storage.write_bytes(context.outputs["metrics"], _json(metrics))
    storage.write_bytes(context.outputs["headline"], _json(_headline(metrics)))
    context.log(f"score {metrics['score']:.2f} over {len(tasks)} tasks, suite {metrics['suite_digest'][:12]}")


def _measure_teachers(tasks: Sequence[Task], params: ScoreParams, dims: Sequence[int], workers: int) -> Measured:
    """Each teacher on the tasks of its languages; only one that was trained to be cut is also measured cut."""
    measured: Measured = {}
    for teacher in sorted(set(params.teachers.values())):
        own = [task for task in tasks if params.teachers.get(task.lang) == teacher]
        if own:
            cuts = dims if teacher in MATRYOSHKA_TEACHERS else ()
            encoder = open_encoder(teacher, params.precision)
            measured[short_name(teacher)] = measure(_Teacher(encoder, workers), own, cuts, encoder.prompts)
    return measured


@dataclass(frozen=True)
class _Teacher:
    """A teacher whose vectors come from the cache that all steps share, or go there."""

    encoder: Encoder
    workers: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with Progress(f"encode with {short_name(self.encoder.name)}", len(set(texts)), "texts") as bar:
            return encode_cached(self.encoder, texts, TEACHER_CACHE, self.workers, bar.advance)


def _measure_lexical(tasks: Sequence[Task]) -> Measured:
    measured: Measured = {}
    for task in tasks:
        if isinstance(task, StsTask):
            measured.setdefault("tfidf", {})[task.name] = {NO_VECTOR: tfidf(task)}
            continue
        measured.setdefault("bm25", {})[task.name] = {NO_VECTOR: bm25(task, identifiers=False)}
        if task.lang == "en":
            measured.setdefault("bm25_identifiers", {})[task.name] = {NO_VECTOR: bm25(task, identifiers=True)}
    return measured


def _metrics(tasks: Sequence[Task], measured: Measured) -> dict[str, Any]:
    """What DVC and the gate read: the main metric of each task by system and dimension, and their mean as the score."""
    main = {task.name: main_metric(task) for task in tasks}
    systems = {
        system: {
            task: {str(dim): scores[main[task]] for dim, scores in by_dim.items()} for task, by_dim in by_task.items()
        }
        for system, by_task in measured.items()
    }
    full = [by_dim[max(by_dim)][main[task]] for task, by_dim in measured[MODEL].items()]
    score = round(sum(full) / len(full), 4)
    return {"score": score, "suite_digest": suite_digest(tasks), "systems": systems, "tasks": main}


def _headline(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The score, and the model at its full dimension on each task: few enough to compare runs by in a terminal."""
    by_task = metrics["systems"][MODEL]
    return {"score": metrics["score"]} | {task: by_dim[max(by_dim, key=int)] for task, by_dim in by_task.items()}


def _quality_csv(measured: Measured) -> bytes:
    lines = io.StringIO(newline="")
    writer: Any = csv.writer(lines, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_quality_rows(measured))
    return lines.getvalue().encode()


def _quality_rows(measured: Measured) -> Iterator[tuple[object, ...]]:
    for system, by_task in measured.items():
        for task, by_dim in by_task.items():
            for dim, scores in by_dim.items():
                for metric, value in scores.items():
                    yield system, task, dim or "", metric, value, dim * BYTES_PER_VALUE or ""


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
