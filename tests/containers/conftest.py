"""The images, built from this working tree, and containers of them as a cluster runs them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException
from docker.models.containers import Container

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
