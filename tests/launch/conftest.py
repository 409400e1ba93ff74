"""A cluster and launchers in it, which end with the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures.fake_kubernetes import FakeKubernetes, fake_kubernetes
from tests.launch.process import Launcher


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeKubernetes]:
    """A fake cluster, whose kubeconfig is at `tmp_path`/kubeconfig."""
    with fake_kubernetes(tmp_path) as (fake, _):
        yield fake


@pytest.fixture
def launch(cluster: FakeKubernetes, tmp_path: Path) -> Iterator[Callable[..., Launcher]]:
    """Starts a launcher in the cluster: `launch(kind="train", **fields of the job)`."""
    started: list[Launcher] = []

    def start(kind: str = "train", **changes: object) -> Launcher:
        started.append(Launcher(tmp_path / "kubeconfig", kind, **changes))
        return started[-1]

    yield start
    for launcher in started:
        launcher.process.kill()
        launcher.process.wait()
