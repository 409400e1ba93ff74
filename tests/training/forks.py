"""Processes as torchrun starts them, forked from one that has imported the libraries: that takes longer than a test."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch.distributed

LIBRARIES = ["torch", "transformers.models.bert.modeling_bert", "safetensors.torch"]
SECONDS = 240  # then it hangs


def start(processes: int, said: Path, main: Callable[..., int], *arguments: object) -> list[int]:
    """Exit codes of ``main(*arguments)`` in so many processes, negative for a signal; what each says is in ``said``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    # the processes meet at a store that is here, as torchrun keeps one for its own
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    variables = [
        {**os.environ, **address, "WORLD_SIZE": str(processes), "RANK": str(rank)} for rank in range(processes)
    ]
    forks = [context.Process(target=_run, args=(said, own, main, arguments)) for own in variables]
    for fork in forks:
        fork.start()
    for fork in forks:
        fork.join(SECONDS)
    codes = [fork.exitcode for fork in forks]
    for fork in forks:
        fork.kill()
    assert None not in codes, f"{said}: hangs"
    return [code for code in codes if code is not None]


def _run(said: Path, variables: Mapping[str, str], main: Callable[..., int], arguments: tuple[object, ...]) -> None:
    os.environ |= {**variables, "LOCAL_RANK": variables["RANK"]}
    with (said / f"said-{variables['RANK']}").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(main(*arguments))
