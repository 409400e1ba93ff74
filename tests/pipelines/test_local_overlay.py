"""The store and the MLflow server of the overlay `local`, started by the very commands of their manifests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.core import lock
from tests.pipelines.rendered import pods, render

KEYS = {"AWS_ACCESS_KEY_ID": "embedmill", "AWS_SECRET_ACCESS_KEY": "a-secret-of-this-test"}
START_SECONDS = 120.0


def container(name: str) -> dict[str, Any]:
    (found,) = [pod.containers[0] for pod in pods(render("overlays/local")) if pod.owner == f"Deployment {name}"]
    return found


def free_ports(number: int) -> list[int]:
    """Ports that are free, as are those 10,000 above them, which SeaweedFS takes for gRPC."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        found.append(port)
        if len(found) == number:
            return found
    raise AssertionError("too few free ports")


@contextmanager
def running(command: list[str], env: dict[str, str], folder: Path, health: str) -> Iterator[int]:
    """A server's process, once it says that it is healthy."""

    def own_group_that_ends_with_the_tests() -> None:
        os.setsid()
        lock.die_with_parent()

    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **env},
            preexec_fn=own_group_that_ends_with_the_tests,
        )
    deadline = time.monotonic() + START_SECONDS
    try:
        while status(health) != 200:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start; its log ends:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        yield server.pid
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def status(url: str, host: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of the store; only its folder and its ports are others than in the manifest."""
    folder = tmp_path_factory.mktemp("store")
    weed = container("embedmill-s3")
    ports = dict(zip(("s3", "master", "volume", "filer"), free_ports(4), strict=True))
    assert weed["command"][:2] == ["weed", "server"]
    replaced = ("-dir=", "-s3.port=8333")
    options = [each for each in weed["command"][2:] if not each.startswith(replaced)]
    options += [f"-dir={folder}", *(f"-{name}.port={port}" for name, port in ports.items())]
    program = str(Path(sys.executable).parent / "weed")
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    probe = weed["readinessProbe"]["httpGet"]["path"]
    with running([program, "server", *options], KEYS, folder, endpoint + probe):
        yield endpoint


def client(endpoint: str, **keys: str) -> Any:
    import boto3
    from botocore.config import Config

    given = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"} | keys
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def put(s3: Any, key: str) -> None:
    """Write into a bucket that need not be there; the first volume is a moment in coming."""
    from botocore.exceptions import ClientError

    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            s3.put_object(Bucket="embedmill", Key=key, Body=b"text")
            return
        except ClientError as error:
            if error.response["Error"]["Code"] != "InternalError" or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_the_store_makes_buckets_and_wants_the_keys_of_the_secret(store: str) -> None:
    from botocore.exceptions import ClientError

    put(client(store, **KEYS), "records/1")
    assert client(store, **KEYS).get_object(Bucket="embedmill", Key="records/1")["Body"].read() == b"text"
    for wrong in ({}, {**KEYS, "AWS_SECRET_ACCESS_KEY": "another"}):
        with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|InvalidAccessKeyId"):
            put(client(store, **wrong), "records/2")
    assert status(f"{store}/embedmill/records/1") == 403


def test_mlflow_keeps_artifacts_in_the_store_and_answers_only_by_its_own_name(store: str, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    replaced = {"--host": "127.0.0.1", "--port": str(port), "--backend-store-uri": f"sqlite:///{tmp_path}/mlflow.db"}
    mlflow = container("embedmill-mlflow")
    options = [
        f"{name}={replaced.get(name, value)}" for name, _, value in (e.partition("=") for e in mlflow["command"][2:])
    ]
    address = f"http://127.0.0.1:{port}"
    env = {each["name"]: each["value"] for each in mlflow["env"]} | KEYS
    env |= {"AWS_ENDPOINT_URL": store, "AWS_DEFAULT_REGION": "us-east-1", "HOME": str(tmp_path)}
    probe = mlflow["readinessProbe"]["httpGet"]["path"]
    with running([sys.executable, "-m", "mlflow", "server", *options], env, tmp_path, address + probe):
        asked = f"{address}/api/2.0/mlflow/experiments/search?max_results=1"
        assert status(asked, "embedmill-mlflow:5000") == 200
        assert status(asked, "somewhere.example.com") == 403
        artifacts = f"{address}/api/2.0/mlflow-artifacts/artifacts/report.txt"
        sent = urllib.request.Request(artifacts, b"a report", {"Host": "embedmill-mlflow:5000"}, method="PUT")
        urllib.request.urlopen(sent, timeout=60).close()
    held = client(store, **KEYS).get_object(Bucket="embedmill", Key="mlflow/report.txt")
    assert held["Body"].read() == b"a report"
