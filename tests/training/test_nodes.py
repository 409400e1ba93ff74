"""The command of a TrainJob's pods on two machines that share nothing but a network and an S3 server."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from components.core import storage
from components.training import elastic
from tests.fixtures.nodes import Node
from tests.fixtures.seaweed import S3Bucket
from tests.fixtures.small_corpus import SMALL, records, run_step, write_dataset
from tests.training import forks

MASTER_PORT = "29500"
SECONDS = 120.0
STEP = {
    "retrieval": {"batch_size": 16},
    "similarity": {"batch_size": 16},
    "classes": {"batch_size": 16},
    "epochs": 10,
    "checkpoint": {"steps": 8},
    "mining": {"dynamic": {"check_every": 20}},
    "dev": {"every": 50, "rows": 60},
}
SECTIONS = ["--section", "run", json.dumps({"seed": 42, "threads": 1}), "--section", "finetune", json.dumps(STEP)]
OUTPUTS = ("output", "loss", "negatives", "dev", "metrics")


PRETRAIN = {"pretrain": {**SMALL, "objective": "none"}}

Pods = Callable[[int, Sequence[str]], "subprocess.Popen[bytes]"]


def prepare(root: str) -> None:
    """Records and a pretrained model."""
    write_dataset(f"{root}/score", records())
    made = {port: f"{root}/pretrain/{port}" for port in ("output", "loss", "dev", "metrics")}
    run_step("pretrain", PRETRAIN, input=f"{root}/score", **made)


def ports(root: str) -> dict[str, str]:
    """Where the step reads and makes what, below `root`."""
    made = {port: f"{root}/made/{port}" for port in OUTPUTS}
    return {"input": f"{root}/score", "model": f"{root}/pretrain/output", **made}


def finetune(folder: Path) -> int:
    os.chdir(folder)
    run_step("finetune", {"finetune": STEP}, **ports(str(folder)))
    return 0


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What two processes make in one folder that nobody disturbs."""
    folder = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(str(folder))
    assert forks.start(2, folder, finetune, folder) == [0, 0], (folder / "said-0").read_text()
    return contents(f"{folder}/made")


@pytest.fixture
def step(s3: S3Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The step in S3, with a mirror of its checkpoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    prepare(s3.uri)
    places = {**ports(s3.uri), "checkpoints": f"{s3.uri}/made/checkpoints"}
    return ["finetune", *SECTIONS, *(word for port, uri in places.items() for word in (f"--{port}", uri))]


def start(node: Node, master: Node, step: Sequence[str]) -> subprocess.Popen[bytes]:
    """What a pod of Kubeflow Trainer does."""
    pod = {
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": str(node.number),
        "PET_MASTER_ADDR": master.address,
        "PET_MASTER_PORT": MASTER_PORT,
    }
    return node.start(elastic.command(step), pod)


@pytest.fixture
def pods(nodes: list[Node]) -> Iterator[Pods]:
    """Starts the pod of a machine; those that are left at the end are killed."""
    running: list[subprocess.Popen[bytes]] = []

    def run(number: int, step: Sequence[str]) -> subprocess.Popen[bytes]:
        running.append(start(nodes[number], nodes[0], step))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.wait()


def contents(uri: str) -> dict[str, bytes]:
    return {info.uri.removeprefix(uri): storage.read_bytes(info.uri) for info in storage.list_files(uri)}


def newest(s3: S3Bucket) -> int:
    """The newest checkpoint in S3, 0 if there is none."""
    files = [Path(info.uri) for info in storage.list_files(f"{s3.uri}/made/checkpoints")]
    return max((int(path.parent.name) for path in files if path.name == "COMPLETE"), default=0)


def wait_for_checkpoint(s3: S3Bucket, process: subprocess.Popen[bytes], after: int = 0) -> None:
    """Return when there is one in S3 that is newer than `after`."""
    deadline = time.monotonic() + SECONDS
    while newest(s3) <= after:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def wait(*processes: subprocess.Popen[bytes]) -> list[int]:
    return [process.wait(SECONDS) for process in processes]


def test_a_machine_that_is_killed_comes_back_and_nothing_differs(
    together: dict[str, bytes], s3: S3Bucket, step: list[str], nodes: list[Node], pods: Pods
) -> None:
    first, second = pods(0, step), pods(1, step)
    wait_for_checkpoint(s3, first)
    second.send_signal(signal.SIGKILL)  # its process dies with it
    second.wait()
    second = pods(1, step)
    assert wait(first, second) == [0, 0], nodes[0].said + nodes[1].said
    assert contents(f"{s3.uri}/made") == together, "and no checkpoints are left"
    assert "goes on after step" in nodes[0].said
    assert not (nodes[1].folder / ".embedmill/checkpoints").exists(), "the first process saves for all"


def test_the_first_machine_takes_all_along_and_all_come_back(
    together: dict[str, bytes], s3: S3Bucket, step: list[str], nodes: list[Node], pods: Pods
) -> None:
    """Once it is killed, once asked to end, and then it saves first; its folder is lost both times."""
    first, second = pods(0, step), pods(1, step)
    wait_for_checkpoint(s3, first)
    first.send_signal(signal.SIGKILL)
    assert wait(first, second) == [-signal.SIGKILL, 1], nodes[1].said
    assert "the other machines are lost" in nodes[1].said

    shutil.rmtree(nodes[0].folder / ".embedmill")
    saved = newest(s3)
    first, second = pods(0, step), pods(1, step)
    wait_for_checkpoint(s3, first, after=saved)
    first.send_signal(signal.SIGTERM)
    assert wait(first, second) == [5, 1], nodes[0].said + nodes[1].said
    (stopped,) = re.findall(r"interrupted after step (\d+); the same command goes on", nodes[0].said)
    assert newest(s3) == int(stopped)

    shutil.rmtree(nodes[0].folder / ".embedmill")
    assert wait(pods(0, step), pods(1, step)) == [0, 0], nodes[0].said + nodes[1].said
    assert f"goes on after step {stopped}\n" in nodes[0].said
    assert contents(f"{s3.uri}/made") == together
