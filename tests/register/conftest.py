"""Fixtures of the tests of `register`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.core import lock
from tests.register.tiny_run import project, template_project

__all__ = ["mlflow_server", "project", "template_project"]

START_SECONDS = 120.0


@pytest.fixture
def mlflow_server(tmp_path: Path, template_project: Path) -> Iterator[str]:
    """The address of a real MLflow server on this machine, empty, with artifacts of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(template_project / "mlflow.db", folder / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def own_group_that_ends_with_the_tests() -> None:
        os.setsid()
        lock.die_with_parent()

    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, *store],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=env,
            preexec_fn=own_group_that_ends_with_the_tests,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, server, folder / "log")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_until_ready(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the MLflow server did not start; its log ends:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
