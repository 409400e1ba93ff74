"""The trials of a sweep on this machine, one after another, each step as a process of its own.

What a step makes lies in a folder named by all that decides it: trials that are equal up to some step share that step,
and a sweep that was killed, or whose grid has grown, only does what is missing. A trial's weights are removed once they
are measured; the same parameters make the same ones again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from components import chain
from components.core import lock, settings, storage
from components.core.errors import InputError, Interrupted
from components.core.fingerprint import code_digest, digest_file, digest_json, json_document
from components.core.manifest import Dataset
from components.core.settings import RunParams
from components.core.step import Port, Step
from components.sweep.trials import Trial, lay

WORK = Path(".embedmill/sweep")
DONE = "done.json"
METRICS = "reports/evaluate/metrics.json"
MEASURED = ("finetune", "export")  # steps of one trial alone, whose models are of no use once they are measured
NAME_CHARACTERS = 16

Log = Callable[[str], None]


class StepFailed(Exception):
    """A step of a trial ended badly: with which code, and what it said last."""

    def __init__(self, step: str, code: int, said: str) -> None:
        how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        super().__init__(f"{step}: {said or how}")
        self.code = code if code > 0 else 1


@dataclass(frozen=True)
class Work:
    """A step of a trial: what it reads and writes by port, and the parameters that it reads."""

    step: Step
    folder: Path
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    parameters: Mapping[str, Any]

    @property
    def done(self) -> bool:
        """Whether its outputs are there, or were."""
        return (self.folder / DONE).is_file()

    def run(self) -> None:
        """Run the step. Raises StepFailed, or Interrupted if it was stopped."""
        params = self.folder / "params.yaml"
        storage.write_bytes(str(params), yaml.safe_dump(dict(self.parameters), allow_unicode=True).encode())
        command = [sys.executable, "-m", "components.cli", self.step.name, "--params", str(params)]
        for name, uri in {**self.inputs, **self.outputs}.items():
            command += [f"--{name.replace('_', '-')}", uri]
        said = ""
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=lock.die_with_parent
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(f"  {line}", end="", file=sys.stderr, flush=True)
                said = line.strip() or said
        if process.returncode in (Interrupted.exit_code, -signal.SIGINT, -signal.SIGTERM):
            raise Interrupted("sweep: stopped; finished trials are kept, run the same command to go on")
        if process.returncode:
            raise StepFailed(self.step.name, process.returncode, said.removeprefix("embedmill: "))
        storage.write_bytes(str(self.folder / DONE), json_document({"step": self.step.name}))


class Workshop:
    """Trials on the records, the model and the suite that `embedmill run` left in this folder."""

    def __init__(self, parameters: Mapping[str, Any], trials: Sequence[Trial], log: Log) -> None:
        self._parameters, self._log = parameters, log
        first = "pretrain" if any(trial.pretraining for trial in trials) else "finetune"
        names = chain.ORDER[chain.ORDER.index(first) : chain.ORDER.index("evaluate") + 1]
        self.steps = [chain.step(name) for name in names]

    def run(self, trial: Trial, title: str) -> str:
        """Do what is missing of a trial; returns the path of its metrics. Raises StepFailed, Interrupted."""
        works = self.plan(trial)
        for number, work in enumerate(works):
            # what has been measured may be gone, and nobody asks for it again
            if not any(later.done for later in works[number:]):
                self._log(f"{title}: {work.step.name}")
                work.run()
        for work in works:
            if work.step.name in MEASURED:
                storage.remove_tree(work.outputs["output"])
        last = works[-1]
        return next(last.outputs[port.name] for port in last.step.outputs if port.default == METRICS)

    def plan(self, trial: Trial) -> list[Work]:
        """The steps of a trial in order."""
        made, works = dict(self._given), []
        for step in self.steps:
            overrides = trial.pretraining if step.name == "pretrain" else trial.overrides
            parameters = lay(self._parameters, overrides)
            sections = {
                name: settings.parse_section(name, model, parameters.get(name), "sweep").model_dump(mode="json")
                for name, model in step.sections.items()
            }
            run = settings.parse_section("run", RunParams, parameters.get("run"), "sweep")
            assert isinstance(run, RunParams)
            inputs = {port.name: made[port.default] for port in step.inputs}
            digest = digest_json(
                [
                    step.name,
                    sections,
                    [run.seed, run.threads],
                    {name: known for name, (_, known) in inputs.items()},
                    code_digest("components.core", "components.training", f"components.{step.name}"),
                ]
            )
            folder = WORK / step.name / digest[:NAME_CHARACTERS]
            ports = [port for port in step.outputs if not port.optional]
            outputs = {port.name: str(folder / Path(port.default).name) for port in ports}
            made |= {port.default: (outputs[port.name], f"{digest} {port.name}") for port in ports}
            works.append(Work(step, folder, {name: uri for name, (uri, _) in inputs.items()}, outputs, parameters))
        return works

    @cached_property
    def _given(self) -> dict[str, tuple[str, str]]:
        """What the steps read and none of them makes: path and digest by the path that it has in a project."""
        made = {port.default for step in self.steps for port in step.outputs}
        wanted = {port.default: port for step in self.steps for port in step.inputs if port.default not in made}
        return {path: (path, _digest(port)) for path, port in wanted.items()}


def _digest(port: Port) -> str:
    """Digest of what the chain has left at a port's place. Raises InputError if nothing is there."""
    if port.kind == "dataset":
        return Dataset.open(port.default).digest
    files = storage.list_files(port.default)
    if not files:
        raise InputError(f"{port.default}: nothing there; run `embedmill run pretrain` first, which makes it")
    return digest_json([[info.uri, digest_file(info.uri)] for info in files])
