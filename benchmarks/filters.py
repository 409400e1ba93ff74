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
    "classifiers, domains": ("filter.classification", "filter.domains", "core.classifier", "core.hashed"),
    "fluency": ("filter.fluency",),
    "duplicates": (
        "filter.duplicates",
        "filter.minhash",
        "filter.shingles",
        "filter.shuffle",
        "filter.duplicate_shuffle",
        "filter.cluster_shuffle",
        "core.exchange",
    ),
    "contamination": ("filter.contamination", "core.suite"),
}
REST = "reading, writing, the rest"
SHIPPED, EVERYTHING = "as shipped", "with every optional filter"


def run() -> Result:
    seconds, shares = {}, {}
    for name, optional in ((SHIPPED, False), (EVERYTHING, True)):
        with tempfile.TemporaryDirectory() as scratch:
            project = prepare(Path(scratch), PAIRS, optional)
            seconds[name] = statistics.median([project.rerun("filter") for _ in range(REPEATS + 1)][1:])
            with sampling.sampled(sampling.module) as spent:
                project.rerun("filter")
            shares[name] = {stage: part / spent.total() for stage, part in by_stage(spent).items()}
    stages = [
        [stage, *(seconds[name] * shares[name][stage] / PAIRS * 1e6 for name in shares)] for stage in (*STAGES, REST)
    ]
    stages.append(["all", *(taken / PAIRS * 1e6 for taken in seconds.values())])
    stages.append(["pairs / CPU-s", *(PAIRS / taken for taken in seconds.values())])
    note = (
        f"The filter step, Parquet to Parquet, on {PAIRS:,} zh and en pairs, 8 % repeated exactly and 8 % nearly; "
        f"languages detected, contamination against three suites. {EVERYTHING.capitalize()}: two classifiers that "
        "`embedmill classifier train` made (each for its language), fluency, a list of domains. "
        f"Median of {REPEATS} runs; stages by sampling."
    )
    table = Table("All filters on one core, µs a pair", ("stage", *seconds), stages, note)
    values = {"pairs_per_second": {name: PAIRS / taken for name, taken in seconds.items()}, "shares": shares}
    return Result("filters", [table], values, versions(("numpy", "pyarrow", "scikit-learn")))


def by_stage(spent: Counter[str]) -> dict[str, float]:
    """CPU seconds by stage, from CPU seconds by module."""
    stages = {name: sum(spent[module] for module in modules) for name, modules in STAGES.items()}
    return {**stages, REST: spent.total() - sum(stages.values())}


def prepare(folder: Path, pairs: int, optional: bool) -> Project:
    """A project of that many generated pairs; sources and ingest have run."""
    project = Project(folder, sections(folder, optional))
    texts.write_jsonl(folder / "pairs.jsonl", (texts.pair(1, index) for index in range(pairs)))
    project.run("sources")
    project.run("ingest")
    return project


def sections(folder: Path, optional: bool) -> dict[str, Any]:
    """The parameters: the shipped ones, for two languages; with `optional` filters, classifiers trained in `folder`.

    The suite shares no text with the pairs.
    """
    shared = texts.shared_data()
    suite = [
        {"name": name, "type": "sts", "uri": str(shared / folder / f"{name}.jsonl.gz"), "columns": STS}
        for folder, name in (
            ("zh_train_clean", "stsb_zh__dev"),
            ("zh_train_clean", "bq__dev"),
            ("en_train_clean", "stsb_en__dev"),
        )
    ]
    return {
        "ingest": {"sources": [{"uri": "pairs.jsonl", "task": "retri_contrast"}]},
        "filter": {"languages": ["zh", "en"], **(dirty.train_classifiers(folder) if optional else {})},
        "evaluate": {"suite": suite},
    }


STS = {"text": "text", "text_pair": "text_pair", "label": "label"}
