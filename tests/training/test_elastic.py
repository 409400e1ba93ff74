"""The command of a TrainJob's pods."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed.run import config_from_args, parse_args

from components.core.errors import UsageError
from components.training import elastic

PROJECT = Path(__file__).resolve().parents[2]
POD = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "finetune-node-0-0.finetune",
    "PET_MASTER_PORT": "29500",
}
STEP = ["finetune", "--input", "s3://bucket/score", "--section", "finetune", '{"epochs": 2}']


@pytest.mark.parametrize(("rank", "host"), [("0", "true"), ("1", "false"), ("10", "false")])
def test_torchrun_takes_what_kubeflow_trainer_sets(rank: str, host: str) -> None:
    config, program, arguments = config_from_args(
        parse_args(elastic.torchrun_arguments(STEP, {**POD, "PET_NODE_RANK": rank}))
    )
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 4)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "finetune-node-0-0.finetune:29500")
    assert config.rdzv_configs["is_host"] == host
    assert config.shutdown_timeout < 30, "Kubernetes kills after 30 seconds"
    assert isinstance(program, str)
    assert arguments == ["-u", "-m", "components", *STEP]


def test_an_ipv6_address_keeps_its_port_apart() -> None:
    arguments = elastic.torchrun_arguments(STEP, {**POD, "PET_MASTER_ADDR": "fd00::1"})
    assert "--rdzv-endpoint=[fd00::1]:29500" in arguments


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(UsageError, match="PET_NODE_RANK, PET_MASTER_PORT: not set"):
        elastic.torchrun_arguments(STEP, {**POD, "PET_NODE_RANK": "", "PET_MASTER_PORT": ""})


def test_outside_of_a_trainjob_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in POD:
        monkeypatch.delenv(name, raising=False)
    assert elastic.main(["finetune"]) == 2
    assert "a TrainJob of Kubeflow Trainer sets them" in capsys.readouterr().err


def test_a_pod_that_waits_for_the_others_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {**POD, "PET_NODE_RANK": "0", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(port)}
    command = [sys.executable, *elastic.command(["finetune"])[1:]]
    pod = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT), **alone})
    while pod.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.05)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(60) == 5
