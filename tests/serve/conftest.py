"""A server as a process, without the packages that the serve image leaves out."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.core import lock
from tests.conftest import PROJECT
from tests.register.conftest import mlflow_server
from tests.register.tiny_run import project, template_project

__all__ = ["Server", "mlflow_server", "project", "serving", "template_project"]

# What mlflow-skinny and the extra `serve` do not bring.
ABSENT = (
    "torch",
    "transformers",
    "sentence_transformers",
    "sklearn",
    "scipy",
    "sqlalchemy",
    "alembic",
    "flask",
    "pandas",
)
PROGRAM = f"import sys; sys.modules.update(dict.fromkeys({ABSENT})); from components.cli import main; main()"
SECONDS = 60.0


@dataclass
class Server:
    """A running `embedmill serve`; `log` is what it has said."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Status and answer, JSON where it says so; a body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        connection.request("GET" if data is None else "POST", path, data, {**sent, **(headers or {})})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.headers["Content-Type"] == "application/json"
        return response.status, json.loads(content) if is_json else content.decode()

    def embed(self, *texts: str, **options: Any) -> dict[str, Any]:
        """The answer to a request that must succeed."""
        status, answer = self.ask("/v1/embeddings", {"input": list(texts), **options})
        assert status == 200, answer
        return dict(answer)

    def wait_until(self, met: Callable[[], bool]) -> None:
        """Wait for something that this process is about to do."""
        deadline = time.monotonic() + SECONDS
        while not met():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log
            time.sleep(0.02)


@contextmanager
def started(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """`embedmill serve ARGUMENTS --port 0` in `folder`, until the block ends."""
    log_file = folder / f"serve-{len(list(folder.glob('serve-*.log')))}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "serve", "--port", "0", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(PROJECT), **(env or {})},
            stderr=log,
            preexec_fn=lock.die_with_parent,
        )
    server = Server(process, 0, log_file)
    try:
        server.wait_until(lambda: "/v1/embeddings" in server.log)
        address = re.search(r":(\d+)/v1/embeddings", server.log)
        assert address
        server.port = int(address[1])
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers in the test's folder: `serving("--model", …, env={…})`."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(started(tmp_path, *arguments, **options))
