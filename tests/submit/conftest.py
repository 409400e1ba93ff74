"""A server that stands in for Kubeflow Pipelines, and a project's folder to submit from."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.core import kubeflow
from tests.conftest import PROJECT
from tests.fixtures.fake_kfp import FakeKfp, fake_kfp

Server = tuple[FakeKfp, str]


@pytest.fixture
def server(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The fake and its address, which the environment leads to."""
    with fake_kfp() as (fake, host):
        monkeypatch.setenv(kubeflow.ENDPOINT_KEY, host)
        yield fake, host


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean checkout with parameters, recipes and the pipeline."""
    for name in (kubeflow.ENDPOINT_KEY, kubeflow.PAGES_KEY, kubeflow.TOKEN_KEY, kubeflow.TOKEN_FILE_KEY):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv(kubeflow.CLUSTER_KEY, raising=False)
    monkeypatch.delenv("EMBEDMILL_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "project"
    shutil.copytree(PROJECT / "recipes", folder / "recipes")
    (folder / "pipelines").mkdir()
    shutil.copy(PROJECT / "params.yaml", folder)
    shutil.copy(PROJECT / "pipelines" / "full.yaml", folder / "pipelines")
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    monkeypatch.chdir(folder)
    return folder
