"""The images, built from this working tree, and containers of them as a cluster runs them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException
from docker.models.containers import Container

from components.core import storage
from tests.containers.cluster import TOKEN, Cluster
from tests.e2e.project import Project
from tests.fixtures.git_server import git_server
from tests.fixtures.mlflow_server import serving
from tests.fixtures.seaweed import S3Bucket
from tests.fixtures.small_corpus import records

PROJECT = Path(__file__).resolve().parents[2]
# Nothing that a step does not need: no network, no capability, nothing to write to but its folder and /tmp.
CONFINED = {"network_mode": "none", "read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}


@dataclass(frozen=True)
class Ended:
    """How a container ended, and what it printed, both streams together."""

    code: int
    output: str


Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def daemon() -> docker.DockerClient:
    """The Docker daemon of this machine; without one, the tests of images are skipped."""
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except DockerException as error:
        pytest.skip(f"images need a Docker daemon, and none answers ({error})")
    return client


@pytest.fixture(scope="session")
def images(daemon: docker.DockerClient) -> dict[str, str]:
    """The id of each image, by target: a tag may be given to another image meanwhile."""
    built = subprocess.run(["make", "images"], cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert built.returncode == 0, built.stdout
    ids = [line for line in built.stdout.splitlines() if line.startswith("sha256:")]
    return dict(zip(("data", "train", "serve"), ids, strict=True))


def wait_for_health(container: Container) -> str:
    """The state that a container's own health check comes to."""
    for _ in range(300):
        container.reload()
        status = str(container.attrs["State"]["Health"]["Status"])
        if status != "starting" or container.status != "running":
            return status
        time.sleep(0.2)
    return "starting"


@pytest.fixture(scope="session")
def run(daemon: docker.DockerClient, images: dict[str, str]) -> Run:
    """Runs a command in a confined container of a target, in the given folder, to its end."""

    def run_command(
        target: str, command: Sequence[str], folder: Path | None = None, env: Mapping[str, str] | None = None
    ) -> Ended:
        if folder:
            folder.chmod(0o777)  # written by the image's own user
        container = daemon.containers.run(
            images[target],
            list(command),
            detach=True,
            environment=dict(env or {}),
            tmpfs={"/tmp": ""} if folder else {"/tmp": "", "/work": "uid=10001,gid=10001"},
            volumes={str(folder): {"bind": "/work", "mode": "rw"}} if folder else {},
            **CONFINED,
        )
        try:
            code = container.wait()["StatusCode"]
            return Ended(code, container.logs().decode())
        finally:
            container.remove(force=True)

    return run_command


@pytest.fixture
def cluster(tmp_path: Path, s3: S3Bucket, images: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for task, name in (("retri_contrast", "pairs"), ("cosent", "graded"), ("cls_contrast", "classes")):
        columns = {
            "pairs": ("text", "text_pos"),
            "graded": ("text", "text_pair", "label"),
            "classes": ("text", "text_pos"),
        }
        rows = [{key: row[key] for key in columns[name]} for row in records() if row["task"] == task]
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        storage.write_bytes(f"{s3.uri}/corpus/{name}.jsonl", text.encode())
    project_folder = tmp_path / "project"
    project_folder.mkdir()
    project = Project(project_folder, recipe=None)
    project.env.pop("OPENBLAS_CORETYPE", None)  # another kernel than the containers', which do not see it
    server = tmp_path / "mlflow"
    server.mkdir()
    bare = tmp_path / "git" / "embedmill.git"
    project.run("git", "clone", "-q", "--bare", str(project.path), str(bare))
    project.run("git", "-C", str(bare), "config", "http.receivepack", "true")
    with serving(server) as address, git_server(bare.parent, TOKEN) as git:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        project.env["MLFLOW_TRACKING_URI"] = address
        yield Cluster(s3, address, project, f"{git}/{bare.name}", images, tmp_path)
