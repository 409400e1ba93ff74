"""Each image as a cluster runs it: its own user, a read-only root, no capability; and what it must not hold."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import docker
import pytest

from components import __version__
from tests.containers.conftest import PROJECT, Run

TARGETS = ("data", "train", "serve")
MEGABYTE = 10**6
COMPILERS = ("as", "c++", "cc", "clang", "g++", "gcc", "ld", "make", "nvcc", "rustc")


@pytest.mark.parametrize("target", TARGETS)
def test_a_container_runs_as_its_own_user_and_writes_to_its_folder_alone(run: Run, target: str) -> None:
    script = "exec 2>&1; id -u; id -g; pwd; echo $HOME; touch /work/a /tmp/a && echo writable; touch /opt/embedmill/a"
    ended = run(target, ["sh", "-c", script])
    assert ended.output.splitlines()[:5] == ["10001", "10001", "/work", "/work", "writable"]
    assert "Read-only file system" in ended.output
    assert ended.code != 0


@pytest.mark.parametrize("target", TARGETS)
def test_help_is_what_an_image_says_by_itself(run: Run, target: str) -> None:
    ended = run(target, ["embedmill", "--help"])
    assert ended.code == 0
    assert "Steps, in order" in ended.output


@pytest.mark.parametrize("target", TARGETS)
def test_there_is_no_compiler_and_nothing_to_install_with(run: Run, target: str) -> None:
    ended = run(target, ["sh", "-c", f"for each in {' '.join(COMPILERS)}; do command -v $each; done; ls /opt/venv/bin"])
    assert not {Path(line).name for line in ended.output.split()} & {*COMPILERS, "pip", "pip3"}


@pytest.mark.parametrize(("target", "limit"), [("data", 700), ("serve", 900)])
def test_an_image_is_small(daemon: docker.DockerClient, images: dict[str, str], target: str, limit: int) -> None:
    assert daemon.images.get(images[target]).attrs["Size"] < limit * MEGABYTE


@pytest.mark.parametrize("target", TARGETS)
def test_labels_say_what_it_was_made_from(daemon: docker.DockerClient, images: dict[str, str], target: str) -> None:
    labels = daemon.images.get(images[target]).labels
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert labels["org.opencontainers.image.revision"] == head.stdout.strip()
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.title"] == f"embedmill {target}"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


@pytest.mark.parametrize("target", TARGETS)
def test_no_secret_is_in_an_image(daemon: docker.DockerClient, images: dict[str, str], run: Run, target: str) -> None:
    image = daemon.images.get(images[target])
    history = " ".join(layer["CreatedBy"] for layer in image.history())
    said = f"{history} {' '.join(image.attrs['Config']['Env'])}"
    assert not re.search(r"password|secret|credential|_key\b|_token\b", said, re.IGNORECASE)
    ended = run(target, ["sh", "-c", "cd /opt/embedmill && ls -A && ls -A .dvc && ls -A /opt /work"])
    assert {*ended.output.split()} <= {
        *(".dvc", ".dvcignore", "LICENSE", "components", "dvc.yaml", "params.yaml", "pipelines", "recipes"),
        *("config", "plots", "/opt:", "bytecode", "embedmill", "pydoc.zip", "venv", "/work:"),
    }


@pytest.mark.parametrize(
    ("target", "modules"),
    [
        ("data", "components.filter.pipeline, boto3, numpy, pyarrow.parquet, pydantic"),
        ("train", "components.finetune.pipeline, mlflow.pyfunc, pyarrow.parquet, sentence_transformers, torch"),
        ("serve", "boto3, fastapi, mlflow, tokenizers, uvicorn"),
    ],
)
def test_byte_code_lies_ready(run: Run, target: str, modules: str) -> None:
    ended = run(target, ["python", "-v", "-c", f"import {modules}"])
    assert ended.code == 0
    compiled = re.findall(r"^# code object from '(/.*\.py)'", ended.output, re.MULTILINE)
    ready = re.findall(r"^# code object from '/opt/bytecode/", ended.output, re.MULTILINE)
    assert not compiled
    assert len(ready) > 200


def test_an_image_is_a_project_that_dvc_reads(run: Run) -> None:
    script = "cp -r /opt/embedmill/. /work && git init -q && dvc stage list --name-only"
    ended = run("train", ["sh", "-c", script])
    assert "finetune" in ended.output.split()
