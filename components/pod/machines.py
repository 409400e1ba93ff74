"""On which machines a step runs: this pod, its GPUs, or a job of the cluster that this pod starts and follows."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components import chain
from components.core import lock
from components.core.command import step_command
from components.core.errors import EmbedmillError
from components.core.labels import PIPELINE
from components.core.reproduce import FAILURE
from components.core.step import Step
from components.launch.job import RUN, Job, job_name
from components.launch.rayjob import run_ray_job
from components.launch.trainjob import run_train_job
from components.training import elastic

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
ENDING = (signal.SIGTERM, signal.SIGINT)


class TrainingFailed(EmbedmillError):
    """Processes on this pod's GPUs ended with an error, which they have said."""

    def __init__(self, step: str, exit_code: int) -> None:
        super().__init__(f"{step}: training failed; its processes say why above")
        self.exit_code = exit_code


@dataclass(frozen=True)
class Machines:
    """What a step may use: `gpus` of its own pod, or a job of `nodes` machines with so many cores and GPUs each."""

    nodes: int
    gpus: int
    gpus_per_node: int
    node_cpu: str
    node_memory: str
    queue: str
    priority_class: str
    image: str
    run: str
    pipeline: str
    labels: Mapping[str, str]

    def job(self, step: Step, work: str, command: Sequence[str], nodes: int) -> Job:
        """The job that runs `command` and is named by its work, so that a pod that comes back finds it."""
        known = {RUN: self.run, PIPELINE: self.pipeline}
        return Job(
            name=job_name(step.name, work),
            step=step.name,
            command=tuple(command),
            image=self.image,
            nodes=nodes,
            gpus=self.gpus_per_node,
            cpu=self.node_cpu,
            memory=self.node_memory,
            labels={**self.labels, **{key: value for key, value in known.items() if value}},
            queue=self.queue,
            priority_class=self.priority_class,
        )


def train(step: Step, work: str, line: Sequence[str], machines: Machines) -> None:
    """Run a training step: in a job of several machines, by torchrun on this pod's GPUs, or in this very process."""
    if machines.nodes:
        run_train_job(machines.job(step, work, elastic.command(line), machines.nodes), say)
    elif machines.gpus > 1:
        _on_gpus(step, line, machines.gpus)
    else:
        here(step, line)


def run_on_ray(step: Step, work: str, line: Sequence[str], machines: Machines) -> None:
    """Run a data step on a Ray cluster of its own, with as many workers as it has nodes."""
    run_ray_job(machines.job(step, work, ("embedmill", *line), nodes=1), say, workers=max(1, machines.nodes))


def here(step: Step, line: Sequence[str]) -> None:
    """Run a step in this process."""
    step_command(step, chain.sections).main(list(line[1:]), prog_name=f"embedmill {step.name}", standalone_mode=False)


def say(message: str) -> None:
    """One line for the person who reads this pod's log."""
    print(message, file=sys.stderr, flush=True)


def _on_gpus(step: Step, line: Sequence[str], gpus: int) -> None:
    """One process a GPU. A signal that ends this pod reaches them, so that they save what they have."""
    FAILURE.unlink(missing_ok=True)
    command = [*TORCHRUN, "--nproc-per-node", str(gpus), "-m", "components", *line]
    process = subprocess.Popen(command, preexec_fn=lock.die_with_parent)
    before = {number: signal.signal(number, lambda got, _: process.send_signal(got)) for number in ENDING}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code:
        exit_code = int(FAILURE.read_text()) if FAILURE.exists() else EmbedmillError.exit_code
        raise TrainingFailed(step.name, exit_code)
