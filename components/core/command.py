"""The command line of a step, made from its declaration: one option a port, and the parameters by file."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click
from click.core import ParameterSource

from components.core import environment, execute, lock, settings, storage
from components.core.errors import InputError, UsageError
from components.core.part import Part
from components.core.settings import RunParams, Section
from components.core.step import Context, Port, Step

LOCKS = ".embedmill/locks"
# What messages name instead of a file where sections stand on the command line.
GIVEN = "--section"
# dvc may have been killed a moment ago; its step then dies within this time.
LOCK_WAIT_SECONDS = 20.0


class Seconds(click.FloatRange):
    """The type of an option that says how long to wait: up to a day, and no NaN, which every other range lets pass."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(0.1, 86400)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds; a usage error for what is none."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value} is not a number.", param, ctx)
        return seconds


def step_command(step: Step, all_sections: Callable[[], Mapping[str, type[Section]]]) -> click.Command:
    """The click command of a step. `all_sections` gives every known section, to catch a misspelt one."""
    options: list[click.Parameter] = [_port_option(port) for port in (*step.inputs, *step.outputs)]
    options += params_options()
    options.append(
        click.Option(
            ["--section", "given"],
            multiple=True,
            nargs=2,
            metavar="NAME JSON",
            help="A whole section, as a JSON object; with one, no parameter file is read unless it is named.",
        )
    )
    if step.forecast:
        options.append(click.Option(["--dry-run"], is_flag=True, help="Print plan, memory and cost; change nothing."))
    if step.stages:
        stages = " | ".join(step.stages)
        options += [
            click.Option(["--stage"], metavar="NAME", help=f"Do only a part of what this stage does: {stages}."),
            click.Option(["--part"], metavar="K/N", help="Which part: the K-th of N."),
        ]

    def run(
        params: str,
        assignments: tuple[str, ...],
        given: tuple[tuple[str, str], ...],
        dry_run: bool = False,
        stage: str | None = None,
        part: str | None = None,
        **paths: str | None,
    ) -> None:
        share = _part(step, stage, part)
        named = click.get_current_context().get_parameter_source("params") is not ParameterSource.DEFAULT
        parameters = read_parameters(params if named or not given else None, given, assignments)
        run_step(step, parameters, params if named or not given else GIVEN, paths, all_sections(), dry_run, share)

    return click.Command(step.name, params=options, callback=run, help=step.summary, short_help=step.summary)


def params_options() -> list[click.Parameter]:
    """The two options that every command with parameters has: the file, and overrides on top of it."""
    return [
        click.Option(
            ["--params", "params"], default="params.yaml", show_default=True, metavar="FILE", help="Parameter file."
        ),
        click.Option(
            ["--set", "assignments"], multiple=True, metavar="SECTION.KEY=VALUE", help="Override one parameter."
        ),
    ]


def read_parameters(
    path: str | None, given: Sequence[tuple[str, str]], assignments: Sequence[str] = ()
) -> dict[str, Any]:
    """The sections of a parameter file, if there is one, then whole sections, then single values on top of them."""
    read = settings.read_params(path) if path is not None else {}
    return settings.override({**read, **settings.read_sections(given)}, assignments)


def run_step(
    step: Step,
    parameters: Mapping[str, Any],
    origin: str,
    paths: Mapping[str, str | None],
    known: Mapping[str, type[Section]],
    forecast: bool = False,
    part: Part | None = None,
) -> None:
    """Validate parameters and inputs, then run the step as the only writer of its outputs, or one part of a stage.

    `origin` is what messages say the parameters come from. Of several processes that run it together the first one is
    the writer, and holds the lock for all. With `forecast` only what a run would take is said, which writes nothing.
    """
    together = environment.processes() > 1
    if "DVC_STAGE" in os.environ or together:
        lock.die_with_parent()
    if together and not step.parallel:
        raise UsageError(f"{step.name} runs in one process; start it without torchrun")
    run, sections = parse_sections(step.sections, parameters, origin, known)
    environment.quiet()
    environment.fix_threads(run.threads)
    inputs = _located(step.inputs, paths)
    outputs = _located(step.outputs, paths)
    for port in step.inputs:
        if port.name in inputs:
            _check_input(port, inputs[port.name])
    if forecast:
        step.execute(Context(step.name, run, sections, inputs, outputs, parameters), forecast)
        return
    writer: AbstractContextManager[None] = nullcontext()
    if environment.rank() == 0:
        for uri in outputs.values():
            check_writable(uri)
        name, what = step.name, f"step {step.name}"
        if part:
            name, what = f"{name}-{part.stage}-{part.number}-of-{part.count}", f"{what}, {part.stage} {part},"
        writer = lock.hold(f"{LOCKS}/{name}.lock", what, LOCK_WAIT_SECONDS)
    with writer, execute.using(run.executor, step.name, {**inputs, **outputs}):
        step.execute(Context(step.name, run, sections, inputs, outputs, parameters, part))


def _part(step: Step, stage: str | None, share: str | None) -> Part | None:
    """The part that the command line names. Raises UsageError if it names a stage without a part, or none of ours."""
    if stage is None and share is None:
        return None
    if stage is None or share is None:
        raise UsageError(f"--stage and --part go together, such as --stage {step.stages[0]} --part 2/8")
    if stage not in step.stages:
        raise UsageError(f"--stage {stage}: the stages of {step.name} are {', '.join(step.stages)}")
    return Part.parse(stage, share)


def parse_sections(
    wanted: Mapping[str, type[Section]],
    raw: Mapping[str, Any],
    origin: str,
    known: Mapping[str, type[Section]],
) -> tuple[RunParams, dict[str, Section]]:
    """The `run` section and the wanted ones, validated. Raises UsageError for unknown sections, keys and values."""
    settings.check_sections(raw, list(known), origin)
    run = settings.parse_section("run", RunParams, raw.get("run"), origin)
    assert isinstance(run, RunParams)
    parsed = {name: settings.parse_section(name, model, raw.get(name), origin) for name, model in wanted.items()}
    return run, parsed


def check_writable(uri: str) -> None:
    """Raise InputError if a local output cannot be written, before hours of work go into it."""
    storage.check_can_write(uri)
    if not storage.is_local(uri):
        return
    path = storage.local_path(uri)
    while not path.exists():
        if path == path.parent:
            break
        path = path.parent
    if not os.access(path, os.W_OK):
        raise InputError(f"{uri}: cannot be written ({path} is not writable)")
    if path.is_file() and str(path) != str(storage.local_path(uri)):
        raise InputError(f"{uri}: cannot be written ({path} is a file, not a folder)")


def _port_option(port: Port) -> click.Option:
    return click.Option(
        [f"--{port.name.replace('_', '-')}", port.name],
        default=None if port.optional else port.default,
        show_default=not port.optional,
        metavar="URI",
        help=port.summary,
    )


def _located(ports: Sequence[Port], paths: Mapping[str, Any]) -> dict[str, str]:
    return {port.name: paths[port.name] for port in ports if paths.get(port.name) is not None}


def _check_input(port: Port, uri: str) -> None:
    if not storage.is_local(uri) or port.kind == "dataset":
        return  # opening says it better
    path = storage.local_path(uri)
    if not path.exists():
        raise InputError(f"{uri}: no such {'file' if port.kind == 'file' else 'folder'} (option --{port.name})")
    if port.kind in ("model", "folder") and not path.is_dir():
        raise UsageError(f"{uri}: expected a folder (option --{port.name})")
