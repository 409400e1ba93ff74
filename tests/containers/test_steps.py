"""Real steps in their images, on a corpus of a few packages: the bytes are those of this environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import docker
import pytest
import yaml

from tests.containers.conftest import CONFINED, PROJECT, Run, wait_for_health

PACKAGES = ["attr", "click", "google", "requests", "sqlparse"]  # two of them are in no image but the default corpus
DATA_STEPS = ("sources", "ingest", "filter")
TRAIN_STEPS = ("score", "pretrain", "finetune", "export")
ASK = """
from urllib.request import Request, urlopen
headers = {"Authorization": "Bearer key", "Content-Type": "application/json"}
body = b'{"model": "export", "input": "read a file"}'
print(urlopen(Request("http://127.0.0.1:8000/v1/embeddings", body, headers)).read().decode())
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with parameters for a tiny run."""
    folder = tmp_path_factory.mktemp("project")
    parameters = yaml.safe_load((PROJECT / "params.yaml").read_text())
    entry = {"uri": "pydoc:", "packages": PACKAGES, "lang": "en", "structure_rows": 200, "class_rows": 200}
    parameters["ingest"]["sources"] = [{**entry, "holdout": 0.15}]
    parameters["pretrain"] |= {"vocab_size": 2000, "matryoshka": {"dims": [64, 32]}}
    parameters["pretrain"]["contrast"] |= {"epochs": 1, "batch_size": 256}
    parameters["finetune"]["retrieval"] |= {"batch_size": 256}
    parameters["evaluate"]["dims"] = [64, 32]
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    return folder


@pytest.fixture(scope="module")
def filtered(project: Path, run: Run) -> Path:
    """The project after the data steps, each in a container of the data image."""
    for step in DATA_STEPS:
        ended = run("data", ["embedmill", step], project)
        assert ended.code == 0, ended.output
    return project


@pytest.fixture(scope="module")
def trained(filtered: Path, run: Run) -> Path:
    """The project after the training steps, each in a container of the train image."""
    for step in TRAIN_STEPS:
        ended = run("train", ["embedmill", step], filtered)
        assert ended.code == 0, ended.output
    return filtered


def test_data_steps_give_the_bytes_of_this_environment(filtered: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes((filtered / "params.yaml").read_bytes())
    for step in DATA_STEPS:
        command = [sys.executable, "-m", "components", step]
        subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=True)
    for name in ("data/sources.json", "data/filter/manifest.json", "reports/filter/funnel.csv"):
        assert (filtered / name).read_bytes() == (tmp_path / name).read_bytes()


def test_training_steps_leave_a_model_that_others_load(trained: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(trained / "models/export"), device="cpu")
    assert model.encode(["read a file"]).shape == (1, 64)


def test_zero_trains_without_a_compiler(trained: Path, run: Run) -> None:
    parameters = yaml.safe_load((trained / "params.yaml").read_text())
    section = parameters["pretrain"] | {"zero": 1, "teachers": {}, "objective": "contrastive", "max_tokens": 32}
    section["matryoshka"] = {"dims": None}
    section["contrast"] |= {"lr": 0.001}
    section["model"] = {"type": "transformer", "layers": 1, "hidden": 32, "heads": 2, "intermediate": 64}
    ports = [part for port in ("output", "loss", "dev", "metrics") for part in (f"--{port}", f"zero/{port}")]
    ended = run("train", ["embedmill", "pretrain", *ports, "--section", "pretrain", json.dumps(section)], trained)
    assert ended.code == 0, ended.output
    assert (trained / "zero/output/model.safetensors").exists()


def test_the_service_answers_with_a_static_model(
    daemon: docker.DockerClient, images: dict[str, str], trained: Path
) -> None:
    container = daemon.containers.run(
        images["serve"],
        ["embedmill", "serve", "--host", "0.0.0.0", "--port", "8000", "--model", "/models/export"],
        detach=True,
        environment={"EMBEDMILL_API_KEY": "key"},
        tmpfs={"/tmp": "", "/work": "uid=10001,gid=10001"},
        volumes={str(trained / "models"): {"bind": "/models", "mode": "ro"}},
        healthcheck={"interval": 10**9},  # nanoseconds; the rest is the image's own
        **CONFINED,
    )
    try:
        assert wait_for_health(container) == "healthy", container.logs().decode()
        asked = container.exec_run(["python", "-c", ASK])
        assert asked.exit_code == 0, asked.output.decode()
        answer = json.loads(asked.output)
        assert len(answer["data"][0]["embedding"]) == 64
        container.stop(timeout=30)
        assert container.wait()["StatusCode"] == 0
    finally:
        container.remove(force=True)
