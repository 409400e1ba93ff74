"""`embedmill submit`: start a run of a compiled pipeline on Kubeflow Pipelines, and follow it."""

from __future__ import annotations

import json
import secrets
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from components.core.command import Seconds, params_options
from components.core.errors import Interrupted, UsageError
from components.core.kubeflow import Pipelines, PipelinesError
from components.core.labels import parse_labels
from components.submit.follow import check_ended_well, follow
from components.submit.options import RUN, SERVER
from components.submit.package import Package, by_name_only
from components.submit.parameters import IMAGE, TRAIN_IMAGE, labels_of_run, recipe_name, sections_of_run, values_of_run


def _submit(
    pipeline: str,
    params: str,
    assignments: tuple[str, ...],
    recipe: str,
    assigned: tuple[str, ...],
    image: str | None,
    train_image: str | None,
    label: tuple[str, ...],
    experiment: str,
    service_account: str,
    name: str | None,
    host: str | None,
    namespace: str | None,
    token_file: str | None,
    wait: bool,
    interval: float,
    dry_run: bool,
) -> None:
    """Start a run of PIPELINE, a compiled one such as pipelines/full.yaml, with the parameters of this project.

    Everything is checked before anything is sent. A run whose --name is there already is not started again: the command
    goes on with that one.
    """
    package = Package.read(pipeline)
    images = {key: value for key, value in ((IMAGE, image), (TRAIN_IMAGE, train_image)) if value}
    for reference in images.values():
        if by_name_only(reference):
            _log(f"{reference} is no digest (…@sha256:…): another image may have this name when the run is repeated")
    sections = sections_of_run(params, recipe, assignments)
    passed = recipe_name(recipe, sections)
    if recipe and not passed:
        _log(f"recipe {recipe} is in the sections alone: by its name pods would make something else of them")
    labels = parse_labels(",".join(label))
    options = {**images, **labels_of_run(package, labels)}
    values = values_of_run(package, sections, passed, options, _pairs(assigned), _log)
    package = package.with_images(images).with_labels(labels)
    name = name or f"{package.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    if dry_run:
        shown = {
            "name": name,
            "experiment": experiment,
            "service_account": service_account,
            "images": package.images(),
            "labels": labels,
            "parameters": values,
        }
        click.echo(json.dumps(shown, indent=1, ensure_ascii=False))
        return
    pipelines = Pipelines.connect(host, namespace, token_file)
    earlier = pipelines.find_run(name)
    if earlier:
        _log(f"a run {name} is there already ({earlier.state.lower()}); nothing is started")
    run = earlier or pipelines.start_run(name, experiment, package.body(), values, service_account)
    url = pipelines.url(run.id)
    click.echo(url)
    if not wait:
        return
    again = f"embedmill submit {pipeline} --name {shlex.quote(name)} --host {pipelines.host} --wait"
    try:
        run = follow(pipelines, run.id, interval, _log)
    except PipelinesError as error:
        raise PipelinesError(f"{error}; the run goes on, follow it again: {again}", error.status) from None
    except KeyboardInterrupt:
        end = f"curl -X POST {pipelines.host}/apis/v2beta1/runs/{run.id}:terminate"
        raise Interrupted(f"the run goes on; follow it again: {again}; end it on its page, or: {end}") from None
    check_ended_well(run, url, _log)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise UsageError(f"--param {each}: expected NAME=VALUE, such as nodes=2")
        if name in pairs:
            raise UsageError(f"--param {name}: given twice")
        pairs[name] = value
    return pairs


def _log(message: str) -> None:
    print(f"submit: {message}", file=sys.stderr, flush=True)


submit = click.Command(
    "submit",
    callback=_submit,
    params=[
        click.Argument(["pipeline"]),
        *params_options(),
        click.Option(["--recipe"], default="", metavar="NAME|FILE", help="A recipe, under what params.yaml changes."),
        *RUN,
        click.Option(["--name"], metavar="NAME", help="Name of the run; by default the pipeline's with the time."),
        *SERVER,
        click.Option(["--wait"], is_flag=True, help="Follow the run; exit code 1 unless it succeeds."),
        click.Option(
            ["--interval"],
            type=Seconds(),
            default=5.0,
            show_default=True,
            help="Seconds between looks at the run.",
        ),
        click.Option(["--dry-run"], is_flag=True, help="Check everything, print what would be sent, send nothing."),
    ],
    help=_submit.__doc__,
    short_help="Start a run of a compiled pipeline on Kubeflow Pipelines, and follow it.",
)
