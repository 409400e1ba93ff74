"""Several machines that train together and outlive the loss of one: what a pod of a TrainJob runs.

Kubeflow Trainer tells each pod in PET_* variables how many there are, which of them it is and where the first one is.
torchrun's static rendezvous, its default there, does not survive a pod that comes back: its peers have restarted their
processes and it has not, so that they wait for each other forever. So the agents meet by c10d, at a store that the
first pod's agent keeps:

- A pod that is killed takes its connections along. The other agents end their processes and, within
  ``--max-restarts``, wait for the pod that replaces it; all go on from the last checkpoint in S3. The dead one is taken
  for present until three heartbeats of five seconds have failed to come.
- When the first pod is killed, the store is gone with it: every agent ends with 1, and the Job starts all pods again.
- A pod that is asked to end by SIGTERM passes it on; its processes agree with all others on a last step, save it and
  end, within the 30 seconds that Kubernetes gives. Its peers' agents see their processes end and wait for it.

Ranks go by address, so after a restart another pod may hold rank 0, which speaks, saves and writes the outputs.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from components.core.errors import EmbedmillError, Interrupted, UsageError

# Of one pod's life; its Job counts further ones. A step that fails of itself, as by a loss that is no number, fails as
# often again, each time from its last checkpoint.
RESTARTS = 3
# A pod that replaces a lost one may have to wait for a node. Nothing else could use the others' GPUs meanwhile.
JOIN_SECONDS = 1800
# Kubernetes sends SIGKILL 30 seconds after SIGTERM; by then the agent must have ended its processes itself.
SHUTDOWN_SECONDS = 25
RENDEZVOUS = "embedmill"
# Kept by the agents, the store where processes meet goes stale with the first restart: an agent that is new looks for
# its address where only the first round put it, and finds in it the addresses of the dead. So rank 0 keeps a fresh one.
FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}

_WANTED = ("PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT")


def command(step_arguments: Sequence[str]) -> list[str]:
    """What every pod runs that takes part in ``embedmill STEP_ARGUMENTS…``, given as ``["finetune", "--input", …]``.

    It expects the PET_* variables of Kubeflow Trainer. PET_LOCAL_ADDR may say under which address the other pods reach
    this one, where its host name does not. The exit code is that of the process that failed first; 5 after SIGTERM.
    """
    return ["python", "-m", "components.training.elastic", *step_arguments]


def torchrun_arguments(step_arguments: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Arguments of torchrun for this pod. Raises UsageError if a variable is missing."""
    missing = [key for key in _WANTED if not environment.get(key)]
    if missing:
        raise UsageError(f"{', '.join(missing)}: not set; a TrainJob of Kubeflow Trainer sets them in its pods")
    host = environment["PET_MASTER_ADDR"]
    first = environment["PET_NODE_RANK"] == "0"  # which torchrun would guess from host names
    conf = {"is_host": str(first).lower(), "join_timeout": JOIN_SECONDS}
    return [
        f"--nnodes={environment['PET_NNODES']}",
        f"--nproc-per-node={environment['PET_NPROC_PER_NODE']}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={f'[{host}]' if ':' in host else host}:{environment['PET_MASTER_PORT']}",
        f"--rdzv-id={RENDEZVOUS}",
        f"--rdzv-conf={','.join(f'{key}={value}' for key, value in conf.items())}",
        f"--max-restarts={RESTARTS}",
        f"--shutdown-timeout={SHUTDOWN_SECONDS}",
        "--module",
        "components",
        *step_arguments,
    ]


def main(step_arguments: Sequence[str]) -> int:
    """Run this pod's agent; the exit code."""
    try:
        arguments = torchrun_arguments(step_arguments, os.environ)
    except EmbedmillError as error:
        print(f"embedmill: {error}", file=sys.stderr)
        return error.exit_code
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    def end(number: int, frame: FrameType | None) -> None:
        raise SignalException("asked to end", signal.Signals(number))

    os.environ |= FRESH_STORE
    # until torchrun listens itself, once the others are there: a container's first process would not notice the signal
    signal.signal(signal.SIGTERM, end)
    torchrun: Any = importlib.import_module("torch.distributed.run")
    try:
        torchrun.run(torchrun.parse_args(arguments))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException:
        return Interrupted.exit_code
    except Exception as error:  # the store's machine is gone, or nobody came
        print(f"embedmill: the other machines are lost ({type(error).__name__}: {error})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # The thread of torchrun's heartbeat may be in the store's C++ right now. An interpreter that is taken down ends
    # such a thread from outside, which C++ answers with abort(): the exit code would be that of SIGABRT.
    os._exit(code)
