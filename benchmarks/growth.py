"""Cost and memory from 50,000 to a million pairs, through ingest and filter as commands with two workers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import filters, texts
from benchmarks.chain import Cost, Project
from benchmarks.measure import RESULTS, Result, Table, versions

SIZES = (50_000, 200_000, 1_000_000)
WORKERS = 2
STEPS = ("ingest", "filter")
PICTURE = "growth.svg"


def run() -> Result:
    return measure(SIZES, RESULTS / PICTURE)


def measure(sizes: Sequence[int], picture: Path) -> Result:
    """The costs of each step at each size, a table and a picture of them."""
    costs: dict[str, dict[int, Cost]] = {step: {} for step in STEPS}
    text_bytes, shuffled, kept = {}, {}, {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as scratch:
            project = Project(Path(scratch), filters.sections(Path(scratch), optional=True), WORKERS)
            rows = (texts.pair(1, index) for index in range(size))
            text_bytes[size] = texts.write_jsonl(project.folder / "pairs.jsonl", rows)
            project.command("sources")
            for step in STEPS:
                costs[step][size] = project.command(step)
            kept[size] = project.dataset("filter").rows
            shuffled[size] = _bytes(project.folder / "data" / "filter")
    table = [
        [
            f"{step}, {size:,} pairs",
            cost.cpu,
            size / cost.cpu,
            cost.wall,
            cost.memory / 2**20,
            cost.main_memory / 2**20,
            cost.worker_memory / 2**20,
        ]
        for step, by_size in costs.items()
        for size, cost in by_size.items()
    ]
    header = ("", "CPU seconds", "pairs / CPU-s", "wall seconds", "peak MiB", "of the step", "of its largest worker")
    note = (
        f"Commands with {WORKERS} workers, start of the processes included, every filter on, the optional ones too; "
        "generated pairs of real sentences (60 % zh), 8 % of them repeated exactly and 8 % nearly. Memory: peak "
        "resident size of the step's process plus that of its largest worker; a shard is 16 MiB of text."
        f"\n\n![CPU time and memory by number of pairs](results/{PICTURE})"
    )
    values: dict[str, Any] = {
        "sizes": list(sizes),
        "bytes_per_pair": text_bytes[sizes[-1]] / sizes[-1],
        "kept": kept[sizes[-1]] / sizes[-1],
        "stored_bytes_per_kept_pair": shuffled[sizes[-1]] / kept[sizes[-1]],
        **{
            step: {
                "cpu_seconds": [cost.cpu for cost in by_size.values()],
                "peak_bytes": [cost.memory for cost in by_size.values()],
                "worker_bytes": [cost.worker_memory for cost in by_size.values()],
            }
            for step, by_size in costs.items()
        },
    }
    draw(costs, picture)
    return Result("growth", [Table("Growth", header, table, note)], values, versions(("numpy", "pyarrow")))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def draw(costs: Mapping[str, Mapping[int, Cost]], picture: Path) -> None:
    """CPU seconds and peak memory by number of pairs, side by side, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "embedmill", "svg.fonttype": "none", "font.family": "sans-serif"}
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    measures = (("CPU seconds", lambda cost: cost.cpu), ("peak memory, MiB", lambda cost: cost.memory / 2**20))
    for panel, (label, of) in zip(panels, measures, strict=True):
        for step, colour in zip(costs, ("#0072b2", "#d55e00"), strict=False):
            sizes = [size / 1e6 for size in costs[step]]
            panel.plot(sizes, [of(cost) for cost in costs[step].values()], "o-", color=colour, label=step)
        panel.set(xlabel="million pairs", ylabel=label, ylim=(0, None), xlim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    panels[0].legend(frameon=False)
    picture.parent.mkdir(exist_ok=True)
    figure.savefig(picture, metadata={"Date": None})
    pyplot.close(figure)
