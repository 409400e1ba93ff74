"""All filters together on one core, and which of them takes how much of the time."""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import dirty, sampling, texts
from benchmarks.chain import Project
from benchmarks.measure import Result, Table, versions

PAIRS = 30_000
REPEATS = 3
# Stage by module of components/; what is not named here is reading, writing and the frame around the stages.
STAGES = {
    "normalise": ("filter.normalise", "filter.texts", "core.textnorm"),
    "language": ("filter.language",),
    "length, heuristics, pairs": ("filter.rules", "filter.characters", "filter.mojibake", "filter.boilerplate"),
    "classifiers, domains": ("filter.classification", "filter.domains", "core.classifier"),
    "fluency": ("filter.fluency",),
    "duplicates": ("filter.duplicates", "filter.minhash", "filter.shingles", "filter.shuffle", "core.exchange"),
    "contamination": ("filter.contamination", "core.suite"),
}
REST = "reading, writing, the rest"


def run() -> Result:
    with tempfile.TemporaryDirectory() as scratch:
        project = prepare(Path(scratch), PAIRS)
        taken = [project.rerun("filter") for _ in range(REPEATS + 1)][1:]
        with sampling.sampled(sampling.module) as spent:
            project.rerun("filter")
        kept, rows = project.dataset("filter").rows, project.dataset("ingest").rows
    seconds = statistics.median(taken)
    stages = by_stage(spent)
    table = [[name, part / spent.total(), seconds * part / spent.total() / rows * 1e6] for name, part in stages.items()]
    table.append(["all", 1.0, seconds / rows * 1e6])
    title = f"All filters on one core: {rows / seconds:,.0f} pairs / CPU-s ({rows:,} pairs, {kept:,} kept)"
    note = (
        "The filter step, Parquet to Parquet, with every rule on: zh and en pairs, 8 % exact and 8 % nearly repeated, "
        "languages detected, two trained classifiers, fluency, contamination against three suites. "
        f"Median of {REPEATS} runs; shares by sampling."
    )
    values = {
        "pairs_per_second": rows / seconds,
        "share": {name: part / spent.total() for name, part in stages.items()},
    }
    header = ("stage", "share of CPU time", "µs a pair")
    return Result("filters", [Table(title, header, table, note)], values, versions(("numpy", "pyarrow")))


def by_stage(spent: Counter[str]) -> dict[str, float]:
    """CPU seconds by stage, from CPU seconds by module."""
    stages = {name: sum(spent[module] for module in modules) for name, modules in STAGES.items()}
    return {**stages, REST: spent.total() - sum(stages.values())}


def prepare(folder: Path, pairs: int, workers: int = 1) -> Project:
    """A project of that many generated pairs with every filter on; sources and ingest have run."""
    project = Project(folder, sections(folder), workers)
    texts.write_jsonl(folder / "pairs.jsonl", (texts.pair(1, index) for index in range(pairs)))
    project.run("sources")
    project.run("ingest")
    return project


def sections(folder: Path) -> dict[str, Any]:
    """The parameters: the shipped ones, for two languages, with every optional filter on.

    The suite shares no text with the pairs; the classifiers are trained in `folder`.
    """
    shared = texts.shared_data()
    suite = [
        {"name": name, "type": "sts", "uri": str(shared / folder / f"{name}.jsonl.gz"), "columns": columns}
        for folder, name, columns in (
            ("zh_train_clean", "stsb_zh__dev", STS),
            ("zh_train_clean", "bq__dev", STS),
            ("en_train_clean", "stsb_en__dev", STS),
        )
    ]
    return {
        "ingest": {"sources": [{"uri": "pairs.jsonl", "task": "retri_contrast"}]},
        "filter": {"languages": ["zh", "en"], **dirty.train_classifiers(folder)},
        "evaluate": {"suite": suite},
    }


STS = {"text": "text", "text_pair": "text_pair", "label": "label"}
