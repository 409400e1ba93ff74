"""A project's folder with feedback, and a stand-in for the chain that trains on a version like `dvc repro` does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]

# Trains only if the data has changed since the last time it ended well; `trained` has a line for each training.
# While the file `hold` exists it stays in the middle of a training; `fail` makes it end badly.
CHAIN = """
import json, os, pathlib, sys, time
current = json.loads(pathlib.Path("data/feedback/current.json").read_text())
lock = pathlib.Path("dvc.lock")
if not lock.exists() or lock.read_text() != current["version"]:
    pathlib.Path("started").write_text(str(os.getpid()))
    while pathlib.Path("hold").exists():
        time.sleep(0.01)
    if pathlib.Path("fail").exists():
        sys.exit(7)
    rows = [row for file in current["files"] for row in open(file["uri"], encoding="utf-8")]
    with open("trained", "a") as log:
        log.write(json.dumps([current["version"], len(rows)]) + "\\n")
    pathlib.Path("reports/register").mkdir(parents=True, exist_ok=True)
    pathlib.Path("reports/register/version.json").write_text(json.dumps({"version": 3, "gate": "passed"}))
    lock.write_text(current["version"])
"""
POLL = """
import sys
from components.flywheel import command
from components.core.reproduce import reproduce
from components.flywheel.local import LocalChain
command._local = lambda: LocalChain(lambda: reproduce(command=[sys.executable, "chain.py"]))
command.flywheel.main(sys.argv[1:], prog_name="flywheel")
"""
# Generous, since these wait for a process that other work may hold up; nothing is asserted about time.
WAIT_SECONDS = 120.0


@dataclass
class Project:
    """A folder in which pollers run as processes."""

    path: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def feed(self, name: str, *rows: dict[str, Any] | str) -> Path:
        """Put a feedback file into the folder."""
        path = self.path / "feedback" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `flywheel ARGUMENTS…` as a process."""
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        process = subprocess.Popen(
            [sys.executable, "-c", POLL, *arguments],
            cwd=self.path,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def poll(self) -> str:
        """Poll once, to the end; returns what was said."""
        process = self.start("poll")
        _, said = process.communicate(timeout=WAIT_SECONDS)
        assert process.returncode == 0, said
        return said

    def trainings(self) -> list[tuple[str, int]]:
        """Version and number of rows of every training."""
        path = self.path / "trained"
        return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something has happened."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def training(self) -> bool:
        """Whether a training has begun."""
        return (self.path / "started").exists() and bool((self.path / "started").read_text())


@pytest.fixture
def project(tmp_path: Path) -> Any:
    """A project without feedback yet; processes that are left at the end are killed."""
    (tmp_path / "chain.py").write_text(CHAIN)
    (tmp_path / "params.yaml").write_text("flywheel: {feedback: feedback/}\n")
    project = Project(tmp_path)
    yield project
    for process in project.processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
