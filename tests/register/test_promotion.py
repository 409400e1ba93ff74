"""Whoever registers, in whatever order and at the same time: the champion ends as the best that has passed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from components.core import tracking
from components.core.tracking import CHAMPION, MODEL
from components.register.promotion import declare_suite, reconcile
from components.register.version import ensure_registered_model
from tests.register.tiny_run import register, write_run


def publish(client: Any, score: float, gate: str = "passed", suite: str = "s") -> None:
    """State the facts of a new version, then reconcile, as the step does."""
    tags = {"gate": gate, "score": repr(score), "suite": suite}
    client.create_model_version(MODEL, "file:///nowhere", tags=tags)
    if gate == "passed":
        declare_suite(client, suite)
    reconcile(client)


@pytest.fixture
def client(project: Path) -> Any:
    client = tracking.connect()
    ensure_registered_model(client)
    return client


def champion_score(client: Any) -> float | None:
    champion = tracking.champion(client)
    return float(champion.tags["score"]) if champion else None


@pytest.mark.parametrize("order", [(50.0, 60.0, 55.0), (60.0, 55.0, 50.0), (9.0, 10.0, 9.5)])
def test_the_best_passed_version_is_champion(client: Any, order: tuple[float, ...]) -> None:
    for score in order:
        publish(client, score)
    publish(client, 99.0, gate="failed")
    assert champion_score(client) == max(order)


def test_of_equal_versions_the_first_stays(client: Any) -> None:
    publish(client, 50.0)
    publish(client, 50.0)
    assert tracking.champion(client).version == 1


def test_nothing_passed_means_no_champion(client: Any) -> None:
    publish(client, 50.0, gate="failed")
    assert tracking.champion(client) is None


def test_a_champion_that_is_revoked_makes_place(client: Any) -> None:
    publish(client, 50.0)
    publish(client, 60.0)
    client.set_model_version_tag(MODEL, "2", "gate", "revoked")
    assert reconcile(client).version == 1
    client.set_model_version_tag(MODEL, "1", "gate", "revoked")
    assert reconcile(client) is None
    assert tracking.champion(client) is None
    publish(client, 40.0)
    publish(client, 70.0, gate="failed", suite="other")
    assert champion_score(client) == 40.0


class Overtaken:
    """A client during whose first alias write another writer registers a better version from start to end."""

    def __init__(self, client: Any) -> None:
        self._client, self._overtaken = client, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        if not self._overtaken:
            self._overtaken = True
            publish(self._client, 70.0)
        self._client.set_registered_model_alias(name, alias, version)


def test_a_writer_that_was_overtaken_corrects_itself(client: Any) -> None:
    publish(Overtaken(client), 60.0)
    assert champion_score(client) == 70.0


def test_racing_writers_end_with_the_best(client: Any) -> None:
    scores = [51.0, 57.0, 53.0, 59.0, 55.0, 52.0]
    start = Barrier(len(scores))

    def race(score: float) -> None:
        start.wait()
        publish(client, score)

    with ThreadPoolExecutor(len(scores)) as pool:
        list(pool.map(race, scores))
    assert champion_score(client) == 59.0


def test_a_server_takes_the_same_run_once_and_serves_the_model(
    project: Path, mlflow_server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    write_run(project)
    first = register()
    assert register() == first
    write_run(project, seed=1, score=56.0)
    assert register()["champion_version"] == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert all(line.startswith("register: ") for line in output.err.splitlines())
    client = tracking.connect()
    assert len(client.search_model_versions(f"name = '{MODEL}'")) == 2
    champion = client.get_model_version_by_alias(MODEL, CHAMPION)
    folder = tracking.fetch_model(client, champion)
    assert folder == tracking.DOWNLOADS / champion.tags["weights.sha256"]
    weights = "0_StaticEmbedding/model.safetensors"
    assert (folder / weights).read_bytes() == (project / "models/export" / weights).read_bytes()
    assert not (project / "mlartifacts").exists()
