"""Fixtures shared by all tests: the command line as a process, and real text where it is at hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core import environment

pytest_plugins = ["tests.fixtures.nodes", "tests.fixtures.ray_cluster", "tests.fixtures.seaweed"]

PROJECT = Path(__file__).resolve().parents[1]

environment.quiet()
environment.fix_threads(1)

Embedmill = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public datasets that lies beside a checkout; required where CI runs."""
    path = Path(os.environ.get("EMBEDMILL_SHARED_DATA", PROJECT.parent / "shared" / "data"))
    if not path.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is missing; set EMBEDMILL_SHARED_DATA")
        pytest.skip(f"no shared datasets at {path}")
    return path


@pytest.fixture
def embedmill(tmp_path: Path) -> Embedmill:
    """Runs `embedmill ARGUMENTS…` as a process in `tmp_path` (or `cwd`); returns its output and exit code."""

    def run(
        *arguments: object, cwd: Path = tmp_path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "components.cli", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), **(env or {})}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)

    return run
