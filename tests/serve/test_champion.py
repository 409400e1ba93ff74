"""The champion is served, and its successor without a request lost; one that cannot be loaded changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from components.core import tracking
from tests.register.tiny_run import register, write_run
from tests.serve.conftest import Server

TEXT = "read a csv file into a table"


def test_a_new_champion_takes_over_between_requests(
    project: Path, mlflow_server: str, serving: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(tracking.URI_KEY, mlflow_server)
    server = serving("--poll", "0.1")
    server.wait_until(lambda: "has no models:/embedmill@champion yet; waiting for it" in server.log)
    assert (server.ask("/healthz")[0], server.ask("/readyz")[0]) == (200, 503)
    assert server.ask("/v1/embeddings", {"input": TEXT})[0] == 503

    write_run(project)
    register()
    server.wait_until(lambda: server.ask("/readyz")[0] == 200)
    first = server.embed(TEXT)
    assert first["model"] == "embedmill/1"

    seen: list[dict[str, object]] = []
    done = threading.Event()

    def ask_on() -> None:
        while not done.is_set():
            seen.append(server.embed(TEXT))

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        write_run(project, seed=1, score=55.0)
        register()
        server.wait_until(lambda: seen[-1]["model"] == "embedmill/2")
    finally:
        done.set()
        asking.join()
    models = [answer["model"] for answer in seen]
    assert models == sorted(models), "never back again"
    assert {str(answer["data"]) for answer in seen} == {str(first["data"]), str(seen[-1]["data"])}
    assert server.ask("/v1/embeddings", {"input": TEXT, "model": "embedmill/1"})[0] == 404, "who pins a version is told"

    write_run(project, seed=2, score=60.0)
    client, _ = tracking.find_version(tracking.CHAMPION_URI)
    with monkeypatch.context() as patched:
        patched.setattr("components.register.promotion.CHAMPION", "not-yet")  # registered, not yet champion
        patched.setattr("components.core.tracking.CHAMPION", "not-yet")
        register()
    damage(mlflow_server, project)
    client.set_registered_model_alias(tracking.MODEL, tracking.CHAMPION, "3")
    server.wait_until(lambda: "other weights than were registered" in server.log)
    looks = 5
    for _ in range(looks):
        threading.Event().wait(0.1)
    assert server.log.count("other weights than were registered, by their SHA-256; version 2 stays") == 1, server.log
    assert server.embed(TEXT)["model"] == "embedmill/2"
    client.set_registered_model_alias(tracking.MODEL, tracking.CHAMPION, "1")
    server.wait_until(lambda: server.embed(TEXT)["model"] == "embedmill/1")
    assert server.embed(TEXT)["data"] == first["data"]


def damage(address: str, project: Path) -> None:
    """Turn a bit of the newest version's weights where the server keeps them."""
    files = (project / "server" / "artifacts").rglob("model.safetensors")
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
