"""`embedmill flywheel`: look at the feedback once, keep looking, or show what came of it."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from components.core import settings, storage
from components.core.command import Seconds, params_options
from components.core.errors import EmbedmillError, Interrupted, UsageError
from components.core.kubeflow import Parameter, Pipelines
from components.core.labels import parse_labels
from components.core.reproduce import ChainFailed
from components.flywheel.cluster import ATTEMPTS, FILLED_IN, PipelineRuns
from components.flywheel.local import LocalChain
from components.flywheel.params import FlywheelParams
from components.flywheel.poller import Trainer, open_store, poll
from components.flywheel.signals import Stopped, stop_on_signals
from components.submit.options import RUN, SERVER
from components.submit.package import Package
from components.submit.parameters import IMAGE, LABELS, TRAIN_IMAGE, labels_of_run


def _poll(params: str, assignments: tuple[str, ...], take_over: bool, **where: Any) -> None:
    """Look at the feedback once. Anything new becomes a dataset version and is trained on."""
    feedback = _read_feedback(params, assignments)
    try:
        with stop_on_signals():
            poll(feedback, _log, _trainer(feedback, **where), take_over)
    except Stopped:
        raise Interrupted("flywheel: stopped; a batch that was claimed is finished by the next poll") from None


def _watch(params: str, assignments: tuple[str, ...], interval: float, **where: Any) -> None:
    """Poll again and again until stopped. A chain that fails ends the watch; feedback that cannot be read does not."""
    feedback = _read_feedback(params, assignments)
    trainer = _trainer(feedback, **where)
    last = ""

    def log(message: str) -> None:
        nonlocal last
        if message != last:  # an idle watch says once that there is nothing new
            _log(message)
        last = message

    try:
        with stop_on_signals():
            while True:
                try:
                    poll(feedback, log, trainer)
                except ChainFailed:
                    raise
                except EmbedmillError as error:
                    log(str(error))
                time.sleep(interval)
    except Stopped:
        _log("stopped")


def _trainer(
    feedback: str,
    submit: str | None,
    host: str | None,
    namespace: str | None,
    token_file: str | None,
    experiment: str,
    service_account: str,
    assigned: tuple[str, ...],
    image: str | None,
    train_image: str | None,
    label: tuple[str, ...],
    attempts: int,
) -> Trainer:
    if submit is None:
        return _local()
    if not storage.is_s3(feedback):
        raise UsageError(
            f"flywheel.feedback: {feedback}: a run in the cluster cannot read it; allowed: s3://bucket/prefix"
        )
    package = Package.read(submit)
    package.check_names(FILLED_IN)
    images = {key: value for key, value in ((IMAGE, image), (TRAIN_IMAGE, train_image)) if value}
    labels = parse_labels(",".join(label))
    values = {**_read_values(package, assigned), **images, **labels_of_run(package, labels)}
    pipelines = Pipelines.connect(host, namespace, token_file)
    body = package.with_images(images).with_labels(labels).body()
    return PipelineRuns(pipelines, body, values, experiment, attempts, service_account)


def _read_values(package: Package, assigned: tuple[str, ...]) -> dict[str, Parameter]:
    """Values of `--param NAME=VALUE`, as the pipeline wants them."""
    values: dict[str, Parameter] = {}
    for assignment in assigned:
        name, equals, text = assignment.partition("=")
        if not equals or not name:
            raise UsageError(f"--param {assignment}: expected NAME=VALUE, such as nodes=2")
        if name in FILLED_IN:
            raise UsageError(f"--param {name}: the flywheel fills that in")
        if name == LABELS:
            raise UsageError(f"--param {name}: use --label, which labels the tasks' pods too")
        package.check_names([name])
        values[name] = package.parameters[name].parse(name, text)
    return values


def _status(params: str, assignments: tuple[str, ...]) -> None:
    """Show every claimed version, its size and what came of it."""
    store = open_store(_read_feedback(params, assignments))
    claims = store.claims()
    if not claims:
        click.echo("no feedback has been trained on yet")
        return
    click.echo(f"{'batch':>5}  {'version':12}  {'files':>6}  {'rows':>9}  state")
    for claim in claims:
        version, result = store.version(claim.version), store.result(claim.number)
        started = store.last_started(claim.number)
        state = f"run {started.name}" if started else "claimed"
        if result:
            state = f"done: model version {result['model_version']}, gate {result['gate']}"
        counts = f"{len(version.files):>6}  {version.rows:>9,}"
        click.echo(f"{claim.number:>5}  {claim.version[:12]}  {counts}  {state}")


def _read_feedback(params: str, assignments: tuple[str, ...]) -> str:
    raw = settings.override(settings.read_params(params), assignments)
    section = settings.parse_section("flywheel", FlywheelParams, raw.get("flywheel"), params)
    assert isinstance(section, FlywheelParams)
    return section.feedback


def _local() -> Trainer:
    return LocalChain()


def _log(message: str) -> None:
    print(f"flywheel: {message}", file=sys.stderr, flush=True)


_TAKE_OVER = click.Option(
    ["--take-over", "take_over"],
    is_flag=True,
    help="Finish the unfinished batch of a poller on another machine that will not come back (S3 feedback only).",
)
_INTERVAL = click.Option(["--interval"], type=Seconds(), default=60.0, show_default=True, help="Seconds between polls.")
_WHERE = (
    click.Option(
        ["--submit"],
        metavar="PIPELINE",
        help="Train as a run of this compiled pipeline on Kubeflow, not here: the poll starts it, a later one looks.",
    ),
    *SERVER,
    *RUN,
    click.Option(
        ["--attempts"],
        type=click.IntRange(min=1),
        default=ATTEMPTS,
        show_default=True,
        help="Runs of a batch before it is left to you, when they fail.",
    ),
)


def _command(name: str, callback: object, *options: click.Parameter) -> click.Command:
    text = callback.__doc__ or ""
    return click.Command(name, params=[*options, *params_options()], callback=callback, help=text)  # type: ignore[arg-type]


flywheel = click.Group(
    "flywheel",
    commands=[
        _command("poll", _poll, _TAKE_OVER, *_WHERE),
        _command("watch", _watch, _INTERVAL, *_WHERE),
        _command("status", _status),
    ],
    help="Train on user feedback: each new batch becomes a dataset version, a run, and a model that the gate judges.",
    short_help="Train on new feedback, once or in a loop; each batch exactly once.",
)
