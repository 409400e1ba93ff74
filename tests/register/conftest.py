"""Fixtures of the tests of `register`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.mlflow_server import serving
from tests.register.tiny_run import project, template_project

__all__ = ["mlflow_server", "project", "template_project"]


@pytest.fixture
def mlflow_server(tmp_path: Path, template_project: Path) -> Iterator[str]:
    """The address of a real MLflow server on this machine, empty, with artifacts of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(template_project / "mlflow.db", folder / "server.db")
    with serving(folder) as address:
        yield address
