"""Steps of the chain as the benchmarks run them: in this process for CPU time, as commands for memory and cost."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import processes
from benchmarks.measure import cpu_seconds
from components import chain
from components.core.command import read_parameters, run_step
from components.core.manifest import Dataset

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_SECONDS = 0.05
# A suite that reads nothing, for the parts that measure no contamination.
NO_SUITE = {"suite": [{"name": "none", "type": "heldout", "source": "none"}]}
NO_CONTAMINATION = {"exact": False, "near": None}


@dataclass(frozen=True)
class Cost:
    """What a command took: CPU seconds of all its processes, wall seconds, peak memory in bytes."""

    cpu: float
    wall: float
    main_memory: int
    worker_memory: int

    @property
    def memory(self) -> int:
        """Peak memory of the step's process and of its largest worker, added."""
        return self.main_memory + self.worker_memory


class Project:
    """A folder with a params.yaml in which steps run; their outputs lie where the chain's defaults put them."""

    def __init__(self, folder: Path, sections: Mapping[str, Any], workers: int = 1) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        run = {"workers": workers, "threads": 1}
        params = {"run": run, "evaluate": NO_SUITE, **sections}
        (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True), encoding="utf-8")

    def dataset(self, name: str) -> Dataset:
        """The dataset that a step wrote."""
        return Dataset.open(str(self.folder / "data" / name))

    def run(self, step: str) -> float:
        """Run a step in this process with one worker; returns its CPU seconds. Its imports are the caller's to warm."""
        declared = chain.step(step)
        paths = {port.name: port.default for port in (*declared.inputs, *declared.outputs) if not port.optional}
        with _inside(self.folder):
            return cpu_seconds(
                lambda: run_step(declared, read_parameters("params.yaml", ()), "params.yaml", paths, chain.sections())
            )[0]

    def rerun(self, step: str) -> float:
        """As `run`, from nothing: the step's dataset is removed first."""
        shutil.rmtree(self.folder / "data" / step, ignore_errors=True)
        return self.run(step)

    def command(self, *arguments: str) -> Cost:
        """Run `embedmill ARGUMENTS…` as a process and measure it with all its workers."""
        command = [sys.executable, "-m", "components.cli", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        start = time.monotonic()
        with (self.folder / "log.txt").open("a+", encoding="utf-8") as log:
            process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log)
            usage = _watch(process)
            if process.returncode:
                log.seek(0)
                raise SystemExit(f"embedmill {' '.join(arguments)} failed:\n{log.read()[-3000:]}")
        own = usage.pop(process.pid)
        workers = list(usage.values())
        cpu = own[0] + sum(seconds for seconds, _ in workers)
        return Cost(cpu, time.monotonic() - start, own[1], max((peak for _, peak in workers), default=0))


def _watch(process: subprocess.Popen[bytes]) -> dict[int, tuple[float, int]]:
    """CPU seconds and peak resident bytes of a process and of everything it starts, by process id.

    Each process is read as long as it lives, so the last 50 ms of one may be missed.
    """
    taken: dict[int, tuple[float, int]] = {process.pid: (0.0, 0)}
    while process.poll() is None:
        for pid in processes.family(process.pid):
            found = processes.usage(pid)
            cpu, peak = taken.get(pid, (0.0, 0))
            taken[pid] = (max(cpu, found.cpu), max(peak, found.peak))
        time.sleep(SAMPLE_SECONDS)
    return taken


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
