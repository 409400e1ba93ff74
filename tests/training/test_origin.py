"""Models by name: from a fake of the hub on loopback, and from the MLflow registry."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core import tracking
from components.core.errors import InputError, UsageError
from components.training.encoder import open_encoder
from tests.register.tiny_run import project, register, template_project, write_model, write_run

__all__ = ["project", "template_project"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SCRIPT = """
import sys
from components.core.errors import EmbedmillError
from components.training.encoder import open_encoder
try:
    encoder = open_encoder(sys.argv[1])
    print(encoder.digest, encoder.dims, *encoder.encode(["read a csv file"])[0])
except EmbedmillError as error:
    print(type(error).__name__, error)
"""


@contextmanager
def fake_hub(folder: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """One public model `name` at revision main, made of the files in `folder`: the hub's address, paths asked for."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            asked.append(path)
            if path.startswith(f"/api/models/{name}/revision/main"):
                self._send(200, {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]})
            elif path.startswith(f"/api/models/{name}/tree/"):
                self._send(200, [{"type": "file", "path": f, "size": len(d), "oid": _tag(d)} for f, d in files.items()])
            elif path.startswith(f"/{name}/resolve/") and path.split("/", 5)[-1] in files:
                data = files[path.split("/", 5)[-1]]
                self._send(200, data, {"ETag": f'"{_tag(data)}"', "X-Repo-Commit": COMMIT})
            else:
                self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

        def do_HEAD(self) -> None:
            self.do_GET()

        def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _tag(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def opened(spec: str, hub: str, home: Path) -> list[str]:
    """What a fresh process prints that opens `spec`, with that hub and an own cache of it."""
    project = str(Path(__file__).resolve().parents[2])
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment = {**variables, "HF_ENDPOINT": hub, "HF_HOME": str(home), "PYTHONPATH": project, "no_proxy": "*"}
    environment["HF_HUB_DISABLE_XET"] = "1"
    command = [sys.executable, "-c", SCRIPT, spec]
    done = subprocess.run(command, cwd=home.parent, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_model_of_the_hub_is_downloaded_once_without_what_could_be_code(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"pickle")
    (tmp_path / "model" / "modeling.py").write_text("raise SystemExit")
    local = open_encoder(str(tmp_path / "model"))
    with fake_hub(tmp_path / "model", "team/tiny") as (hub, asked):
        first = opened("team/tiny", hub, tmp_path / "home")
        assert first[:2] == [local.digest, str(local.dims)]
        np.testing.assert_allclose([float(x) for x in first[2:]], local.encode(["read a csv file"])[0], atol=1e-6)
        assert any(path.endswith("model.safetensors") for path in asked)
        assert not [path for path in asked if path.endswith((".bin", ".py"))]
        missing = " ".join(opened("team/none", hub, tmp_path / "home"))
        assert missing == "UsageError encoder 'team/none': neither a folder nor a public model of the hub"
    assert opened("team/tiny", hub, tmp_path / "home") == first, "without the hub: from its cache"
    away = " ".join(opened("team/none", hub, tmp_path / "home"))
    assert away.startswith("UsageError encoder 'team/none': no such folder, and the hub cannot be reached")


def test_registered_models_are_opened_by_alias_and_by_version(project: Path) -> None:
    with pytest.raises(UsageError, match="has no such model version"):
        open_encoder("models:/embedmill@champion")
    write_run(project)
    register()
    champion = open_encoder("models:/embedmill@champion")
    exported = open_encoder("models/export")
    assert (champion.digest, champion.dims) == (exported.digest, exported.dims)
    assert open_encoder("models:/embedmill/1").digest == champion.digest
    write_run(project, seed=1, score=55.0)
    register()
    assert open_encoder("models:/embedmill@champion").digest != champion.digest
    assert open_encoder(champion.origin).digest == champion.digest, "a worker opens what its parent had"


@pytest.mark.parametrize("spec", ["models:/embedmill", "models:/embedmill/latest", "models:/"])
def test_a_registry_uri_says_its_form(spec: str) -> None:
    with pytest.raises(UsageError, match=r"expected models:/NAME@ALIAS or models:/NAME/VERSION"):
        open_encoder(spec)


def test_an_unreachable_registry_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(tracking.URI_KEY, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"MLflow at http://127\.0\.0\.1:9: cannot be reached"):
        open_encoder("models:/embedmill@champion")
