"""The team's set-up on one host: checked by Compose, then started, trained on feedback, asked for an embedding."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
import yaml

from tests.containers.conftest import PROJECT

SECRETS = {
    "POSTGRES_PASSWORD": "a-password-of-this-test",
    "AWS_ACCESS_KEY_ID": "an-access-key-of-this-test",
    "AWS_SECRET_ACCESS_KEY": "a-secret-key-of-this-test",
    "EMBEDMILL_API_KEY": "an-api-key-of-this-test",
}
FEEDBACK = {
    "query": "split words at dashes",
    "clicked": "def split(text)\nSplits the given text wherever there is a dash and returns the words.",
    "skipped": ["def join(words)\nJoins the given words with a dash between them."],
}
GIVE_FEEDBACK = f"""
import boto3, json
boto3.client("s3").put_object(Bucket="embedmill", Key="feedback/monday.jsonl", Body=json.dumps({FEEDBACK!r}))
"""
ASK_UNTIL = """
import json, os, sys, time
from urllib.error import HTTPError
from urllib.request import Request, urlopen
headers = {"Authorization": "Bearer " + os.environ["EMBEDMILL_API_KEY"], "Content-Type": "application/json"}
body = json.dumps({"model": "embedmill", "input": "split words"}).encode()
key, value = json.loads(sys.argv[1])
for _ in range(900):
    try:
        answer = json.load(urlopen(Request("http://127.0.0.1:8000/v1/embeddings", body, headers)))
    except HTTPError as error:
        answer = {"status": error.code}
    except OSError:
        answer = {"status": "starting"}
    if answer.get(key) == value:
        break
    time.sleep(1)
print(json.dumps(answer))
"""
Compose = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def program() -> list[str]:
    """The command of Compose: version 2 is part of docker, version 1 a program of its own."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("neither `docker compose` nor docker-compose is installed")


def environment(**changes: str) -> dict[str, str]:
    """The environment of a host; our modules are none of Compose's, which is a Python program too."""
    return {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", *SECRETS}} | changes


def test_compose_takes_the_file(program: list[str]) -> None:
    command = [*program, "-f", str(PROJECT / "docker/compose.yaml"), "config"]
    checked = subprocess.run(command, env=environment(**SECRETS), text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr
    services = yaml.safe_load(checked.stdout)["services"]
    assert {*services} == {"database", "mlflow", "owner", "poller", "serve", "store"}


@pytest.mark.parametrize("missing", SECRETS)
def test_nothing_starts_without_its_secrets(program: list[str], missing: str) -> None:
    given = {key: value for key, value in SECRETS.items() if key != missing}
    command = [*program, "-f", str(PROJECT / "docker/compose.yaml"), "config"]
    checked = subprocess.run(command, env=environment(**given), text=True, capture_output=True)
    assert checked.returncode != 0
    assert "see docker/.env.example" in checked.stderr


def test_the_example_names_the_secrets_and_holds_none() -> None:
    lines = (PROJECT / "docker/.env.example").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert {key for key, value in values.items() if not value} == {*SECRETS}
    ignored = subprocess.run(["git", "check-ignore", "docker/.env"], cwd=PROJECT, capture_output=True)
    assert ignored.returncode == 0


def test_every_service_is_confined_and_listens_on_loopback() -> None:
    services = yaml.safe_load((PROJECT / "docker/compose.yaml").read_text())["services"]
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


@pytest.fixture(scope="module")
def stack(program: list[str], images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The services, in one network that reaches nothing else, with stand-ins for the images that are not ours.

    Ports are left out: the daemon of a test machine may have no bridge to publish them with.
    """
    folder = tmp_path_factory.mktemp("stack")
    (folder / "params.yaml").write_text(yaml.safe_dump(tiny_parameters()))
    described: dict[str, Any] = yaml.safe_load((PROJECT / "docker/compose.yaml").read_text())
    ours = {f"embedmill-{target}": image for target, image in images.items()}
    for name, service in described["services"].items():
        service.pop("ports", None)
        service["network_mode"] = "service:network"
        service["image"] = ours.get(service["image"].partition(":")[0]) or stand_in(name)
    described["services"]["network"] = {
        "image": images["data"],
        "command": ["sleep", "infinity"],
        "network_mode": "none",
        "init": True,
        "extra_hosts": [f"{name}:127.0.0.1" for name in ("database", "mlflow", "store")],
    }
    (folder / "compose.yaml").write_text(yaml.safe_dump(described))
    project = f"embedmill-{uuid.uuid4().hex[:8]}"  # the daemon may run the same test for others
    env = environment(**SECRETS, PARAMS=str(folder / "params.yaml"), FEEDBACK_INTERVAL="1")

    def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*program, "-p", project, "-f", str(folder / "compose.yaml"), *arguments]
        return subprocess.run(command, env=env, text=True, capture_output=True)

    started = compose("up", "-d")
    try:
        assert started.returncode == 0, started.stderr + compose("logs").stdout
        yield compose
    finally:
        compose("down", "--volumes", "--timeout", "2")


def tiny_parameters() -> dict[str, Any]:
    """The parameters of the project, on a corpus of three packages."""
    parameters: dict[str, Any] = yaml.safe_load((PROJECT / "params.yaml").read_text())
    source = {"uri": "pydoc:", "packages": ["click", "google", "requests"], "lang": "en", "holdout": 0.15}
    parameters["ingest"]["sources"] = [source]
    parameters["pretrain"] |= {"vocab_size": 2000, "matryoshka": {"dims": [64, 32]}}
    parameters["pretrain"]["contrast"] |= {"epochs": 1, "batch_size": 256}
    parameters["evaluate"] |= {"dims": [64, 32], "suite": parameters["evaluate"]["suite"][:1]}
    parameters["register"]["rules"] = []
    return parameters


def stand_in(name: str) -> str:
    """The id of an image of the same program, built here."""
    target = {"database": "postgres", "store": "seaweedfs"}[name]
    flags = os.environ.get("BUILD_FLAGS", "").split()
    file = str(PROJECT / "tests/containers/stack/Dockerfile")
    command = [os.environ.get("DOCKER", "docker"), "build", "--quiet", *flags, "--file", file, "--target", target, "."]
    env = {**os.environ, "DOCKER_BUILDKIT": "1"}
    built = subprocess.run(command, cwd=PROJECT, env=env, text=True, capture_output=True)
    assert built.returncode == 0, built.stderr
    return built.stdout.strip()


def inside(stack: Compose, service: str, code: str, *arguments: str) -> str:
    """What Python prints in a service's container."""
    ended = stack("exec", "-T", service, "python", "-c", code, *arguments)
    assert ended.returncode == 0, ended.stderr + stack("logs", service).stdout
    return ended.stdout


def ask_until(stack: Compose, key: str, value: object) -> dict[str, Any]:
    """The service's answer, once `key` is `value` in it."""
    answer: dict[str, Any] = json.loads(inside(stack, "serve", ASK_UNTIL, json.dumps([key, value])))
    assert answer.get(key) == value, f"{answer}\n{stack('logs', '--tail', '40', 'poller', 'serve').stdout}"
    return answer


def test_feedback_becomes_the_model_that_answers(stack: Compose) -> None:
    assert ask_until(stack, "status", 503) == {"status": 503}  # no champion yet
    inside(stack, "poller", GIVE_FEEDBACK)
    answer = ask_until(stack, "model", "embedmill/1")
    assert len(answer["data"][0]["embedding"]) == 64
    logs = stack("logs", "poller").stdout
    assert "batch 1: done, model version 1, gate passed" in logs


def test_secrets_are_in_no_log_and_no_command(stack: Compose, daemon: docker.DockerClient) -> None:
    logs = stack("logs").stdout
    commands = " ".join(
        " ".join(container.attrs["Config"]["Cmd"] or [])
        for name in stack("ps", "-q").stdout.split()
        if (container := daemon.containers.get(name))
    )
    assert "mlflow" in commands
    for secret in {*SECRETS.values()} - {SECRETS["AWS_ACCESS_KEY_ID"]}:  # that is a name, which the store logs
        assert secret not in logs
        assert secret not in commands
