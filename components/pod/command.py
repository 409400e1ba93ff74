"""`embedmill pod STEP`: what a task of a pipeline runs.

The same step as on a laptop, with a prefix of the store instead of the project's folder: the sections come as JSON, the
inputs as URIs, and the URIs of what was made go into files that Kubeflow Pipelines reads.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from components import chain
from components.core import settings, storage
from components.core.command import GIVEN, parse_sections
from components.core.errors import InputError, UsageError
from components.core.fingerprint import canonical_json
from components.core.labels import PIPELINE_KEY, parse_labels
from components.core.recipes import lay_recipe
from components.core.sources import data_version as data_version_of
from components.core.step import Port, Step
from components.core.tracking import RUN_KEY
from components.pod.failure import Failure, attempt, find_failure
from components.pod.machines import Machines, here, run_on_ray, say, train
from components.pod.parts import next_parts
from components.pod.places import Place
from components.pod.shown import show, show_failure, write_output

SOURCES = "sources"
# Options that say what a step runs on.
MACHINES = ("nodes", "gpus", "gpus_per_node", "node_cpu", "node_memory", "queue", "priority_class")
# Where `sources` writes before its result has a name.
LISTING = Path(".embedmill/pod/sources")


@dataclass(frozen=True)
class Request:
    """A step to run, its effective sections, and the URIs of its inputs by port."""

    step: Step
    root: str
    image: str
    sections: Mapping[str, Any]
    inputs: Mapping[str, str]

    def arguments(self, outputs: Mapping[str, str], *more: str) -> list[str]:
        """The command line that runs the step here or in a job."""
        line = [self.step.name]
        for name, section in self.sections.items():
            line += ["--section", name, canonical_json(section)]
        for port, uri in {**self.inputs, **outputs}.items():
            line += [f"--{port.replace('_', '-')}", uri]
        return [*line, *more]

    @property
    def runs_on_ray(self) -> bool:
        """Whether a data step is given a Ray cluster of its own."""
        executor = (self.sections.get("run") or {}).get("executor")
        return bool(self.step.stages) and executor == "ray"

    def asked(self) -> dict[str, Any]:
        """All that decides the step's outputs: what else `run` says changes no byte of them."""
        run, sections = parse_sections(self.step.sections, self.sections, GIVEN, chain.sections())
        values = {name: section.model_dump(mode="json") for name, section in sections.items()}
        return {
            "step": self.step.name,
            "image": self.image,
            "inputs": dict(sorted(self.inputs.items())),
            "sections": {"run": {"seed": run.seed, "threads": run.threads}, **values},
        }


@click.command(short_help="Run a step as a pod of a pipeline, everything in S3.")
@click.argument("name", metavar="STEP", type=click.Choice(chain.ORDER))
@click.option("--root", required=True, metavar="URI", help="Prefix under which every step has its place.")
@click.option("--image", default="", metavar="REF", help="Image that runs the step: part of what decides its outputs.")
@click.option("--train-image", "job_image", default="", metavar="REF", help="Image of jobs; default: that of the step.")
@click.option("--recipe", default="", metavar="NAME", help="Recipe to lay under what the sections change.")
@click.option("--section", "given", multiple=True, nargs=2, metavar="NAME JSON", help="A whole section.")
@click.option("--overrides", default="", metavar="JSON", help='Single values on top: {"finetune.lr": 0.01}.')
@click.option("--in", "inputs", multiple=True, nargs=2, metavar="PORT URI", help="An input; an empty URI is none.")
@click.option("--out", "outputs", multiple=True, nargs=2, metavar="PORT FILE", help="File for an output's URI.")
@click.option("--show", "shown", multiple=True, nargs=3, metavar="PORT FILE URI", help="An output as an artefact.")
@click.option("--executor-input", default="", metavar="JSON", help="Says where to tell what the artefacts are.")
@click.option(
    "--tolerant", is_flag=True, help="A failure of the step is its output, which the steps behind it pass on."
)
@click.option("--stage", default="", metavar="NAME", help="Do only a part of this stage.")
@click.option("--part", default="", metavar="K/N", help="Which part.")
@click.option("--done", default="", metavar="FILE", help="File that then says which part is done.")
@click.option("--after", default="", metavar="JSON", help="What the parts before said: all of them are there.")
@click.option("--shard-groups", type=click.IntRange(1, 64), default=16, help="Most parts of the next step.")
@click.option("--parts", default="", metavar="FILE", help="File for the list of those parts.")
@click.option("--data-version", default="", metavar="DIGEST", help="sources: refuse other data than this.")
@click.option("--nodes", type=click.IntRange(0), default=0, help="Machines that train together; 0: this pod.")
@click.option("--gpus", type=click.IntRange(0), default=0, help="GPUs of this pod.")
@click.option("--gpus-per-node", type=click.IntRange(0), default=0, help="GPUs of each of the machines.")
@click.option("--node-cpu", default="8", help="Cores of each, as Kubernetes writes them.")
@click.option("--node-memory", default="32Gi", help="Memory of each.")
@click.option("--queue", default="", help="Kueue's local queue for jobs.")
@click.option("--priority-class", default="", help="Priority class of jobs.")
@click.option("--labels", default="", metavar="KEY=VALUE,…", help="Labels of jobs and their pods, to group costs by.")
@click.option("--version", default="", metavar="FILE", help="sources: file for the version of the data.")
@click.option(
    "--result-uri", "result", default="", metavar="URI", help="register: where the version is written as well."
)
@click.option("--pipeline", default="", envvar=PIPELINE_KEY, metavar="NAME", help="The pipeline, for labels.")
@click.option(
    "--run", "run_id", default="", envvar=RUN_KEY, metavar="ID", help="The pipeline's run, for MLflow and labels."
)
def pod(
    name: str,
    root: str,
    image: str,
    recipe: str,
    given: tuple[tuple[str, str], ...],
    overrides: str,
    inputs: tuple[tuple[str, str], ...],
    stage: str,
    part: str,
    done: str,
    after: str,
    data_version: str,
    run_id: str,
    job_image: str,
    labels: str,
    pipeline: str,
    result: str,
    tolerant: bool,
    **told: Any,
) -> None:
    """Run STEP with its outputs under ROOT, at a place named by all that decides them."""
    # the first process of a container has no handler that ends it, and waits to be killed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if run_id:
        os.environ[RUN_KEY] = run_id
    step = chain.step(name)
    if not root:
        raise UsageError("--root: is empty; expected s3://bucket/prefix")
    if bool(stage) != bool(part):
        raise UsageError("--stage and --part go together, such as --stage judge --part 2/8")
    _check_ports("--in", inputs, step.inputs)
    _check_ports("--out", told["outputs"], [port for port in step.outputs if not port.optional])
    _check_ports("--show", told["shown"], [port for port in step.outputs if port.shows])
    sections = _effective(given, recipe, overrides)
    request = Request(step, root, image, sections, {port: uri for port, uri in inputs if uri})
    machines = Machines(
        **{key: told.pop(key) for key in MACHINES},
        image=job_image or image,
        run=run_id,
        pipeline=pipeline,
        labels=parse_labels(labels),
    )
    if stage:
        _run_stage(request, stage, part)
        write_output(done, part)
        return
    _check_parts(after)
    if tolerant:
        place = Place.of(root, request.step, request.asked())
        failure = find_failure(request.inputs.values())
        failure = failure or attempt(name, place, run_id, lambda: _make(request, machines, result))
        if failure:
            _tell_failure(request.step, failure, told["outputs"], told["shown"])
            return
    else:
        place = _list_sources(request, data_version) if name == SOURCES else _make(request, machines, result)
    _tell(request, place, **told)


def _effective(given: Sequence[tuple[str, str]], recipe: str, overrides: str) -> dict[str, Any]:
    """The sections with the recipe under what they change, and single values on top."""
    sections = lay_recipe(recipe, settings.read_sections(given))
    if not overrides:
        return sections
    try:
        values = json.loads(overrides)
    except ValueError as error:
        raise UsageError(f"--overrides: not valid JSON ({error})") from None
    if not isinstance(values, dict) or not all("." in key for key in values):
        raise UsageError(f'--overrides {overrides}: expected a JSON object such as {{"finetune.lr": 0.01}}')
    return settings.override(sections, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def _make(request: Request, machines: Machines, result: str) -> Place:
    """Run the step, unless an earlier pod has; a version that it registers is written at `result` as well."""
    step = request.step
    place = Place.of(request.root, step, request.asked())
    if not step.volatile and place.finished():
        say(f"pod: {step.name} was made by an earlier pod: {place.uri}")
        return place
    if step.parallel:
        line = request.arguments(place.outputs(step), "--checkpoints", place.checkpoints)
        train(step, place.name, line, machines)
    elif request.runs_on_ray:
        run_on_ray(step, place.name, request.arguments(place.outputs(step)), machines)
    else:
        try:
            here(step, request.arguments(place.outputs(step)))
        finally:  # a version that the gate refuses is one, too
            if result and storage.exists(place.outputs(step)["version"]):
                storage.write_bytes(result, storage.read_bytes(place.outputs(step)["version"]))
    if not step.volatile:
        place.finish()
    return place


def _tell_failure(
    step: Step, uri: str, outputs: Sequence[tuple[str, str]], shown: Sequence[tuple[str, str, str]]
) -> None:
    """Write what failed in place of everything that the step should have made."""
    failure = Failure.read(uri)
    say(f"pod: {step.name} makes nothing, since {failure.step} failed: {failure.said}")
    for _, file in outputs:
        write_output(file, uri)
    show_failure(uri, shown)


def _run_stage(request: Request, stage: str, part: str) -> None:
    """Do a part of a stage ahead of the step itself, unless a cluster of its own will do all of it."""
    place = Place.of(request.root, request.step, request.asked())
    if place.finished() or request.runs_on_ray:
        return
    here(request.step, request.arguments(place.outputs(request.step), "--stage", stage, "--part", part))


def _list_sources(request: Request, wanted: str) -> Place:
    """List the inputs; what is found names the place, so that new data leads to new work and old data to what is there.

    Raises InputError if the data is not the version that the run is for.
    """
    step = request.step
    local = {port.name: str(LISTING / port.default.rpartition("/")[2]) for port in step.outputs}
    here(step, request.arguments(local))
    found = {port: storage.read_bytes(path) for port, path in local.items()}
    version = data_version_of(found["output"], found["suite"])
    if wanted and version != wanted:
        raise InputError(
            f"data_version {wanted[:12]}: the sources hold other data now, version {version[:12]}; "
            "leave data_version empty to train on what is there"
        )
    place = Place.of(request.root, step, {"step": step.name, "data_version": version})
    for port, uri in place.outputs(step).items():
        storage.write_bytes(uri, found[port])
    return place


def _check_ports(option: str, given: Sequence[tuple[str, ...]], ports: Sequence[Port]) -> None:
    """Raise UsageError for a port that is none, before a step has worked for hours."""
    known = [port.name for port in ports]
    for name, *_ in given:
        if name not in known:
            raise UsageError(f"{option} {name}: no such port; there are: {', '.join(known) or 'none'}")


def _check_parts(after: str) -> None:
    """Raise InputError unless the parts of the stage before are all there: a fan-in that lost one would be slow."""
    if not after:
        return
    try:
        said = sorted(json.loads(after))
        counts = {int(part.partition("/")[2]) for part in said}
        numbers = sorted(int(part.partition("/")[0]) for part in said)
    except (ValueError, AttributeError, TypeError):
        raise UsageError(f"--after {after}: expected a JSON list of parts such as 1/2, 2/2") from None
    if len(counts) != 1 or numbers != list(range(1, counts.pop() + 1)):
        raise InputError(f"--after {after}: not every part of the stage before has ended")


def _tell(
    request: Request,
    place: Place,
    outputs: Sequence[tuple[str, str]],
    shown: Sequence[tuple[str, str, str]],
    executor_input: str,
    parts: str,
    shard_groups: int,
    version: str,
) -> None:
    """Write what the rest of the pipeline and its page read."""
    step = request.step
    made = place.outputs(step)
    for port, file in outputs:
        write_output(file, made[port])
    if parts:
        write_output(parts, next_parts(step, made, request.sections, shard_groups))
    if version:
        write_output(version, place.asked["data_version"])
    show(step, made, shown, executor_input)
