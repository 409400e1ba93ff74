"""`embedmill flywheel`: look at the feedback once, keep looking, or show what came of it."""

from __future__ import annotations

import sys
import time

import click

from components.core import settings
from components.core.command import params_options
from components.core.errors import EmbedmillError, Interrupted
from components.core.reproduce import ChainFailed, reproduce
from components.flywheel.params import FlywheelParams
from components.flywheel.poller import open_store, poll
from components.flywheel.signals import Stopped, stop_on_signals


def _poll(params: str, assignments: tuple[str, ...], take_over: bool) -> None:
    """Look at the feedback once. Anything new becomes a dataset version and the chain runs on it."""
    feedback = _read_feedback(params, assignments)
    try:
        with stop_on_signals():
            poll(feedback, _log, _chain, take_over)
    except Stopped:
        raise Interrupted("flywheel: stopped; a batch that was claimed is finished by the next poll") from None


def _watch(params: str, assignments: tuple[str, ...], interval: float) -> None:
    """Poll again and again until stopped. A chain that fails ends the watch; feedback that cannot be read does not."""
    feedback = _read_feedback(params, assignments)
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
                    poll(feedback, log, _chain)
                except ChainFailed:
                    raise
                except EmbedmillError as error:
                    log(str(error))
                time.sleep(interval)
    except Stopped:
        _log("stopped")


def _status(params: str, assignments: tuple[str, ...]) -> None:
    """Show every version that was claimed: its files and rows, and the model that came of it."""
    store = open_store(_read_feedback(params, assignments))
    claims = store.claims()
    if not claims:
        click.echo("no feedback has been trained on yet")
        return
    click.echo(f"{'batch':>5}  {'version':12}  {'files':>6}  {'rows':>9}  state")
    for claim in claims:
        version, result = store.version(claim.version), store.result(claim.number)
        state = f"done: model version {result['model_version']}, gate {result['gate']}" if result else "claimed"
        counts = f"{len(version.files):>6}  {version.rows:>9,}"
        click.echo(f"{claim.number:>5}  {claim.version[:12]}  {counts}  {state}")


def _read_feedback(params: str, assignments: tuple[str, ...]) -> str:
    raw = settings.override(settings.read_params(params), assignments)
    section = settings.parse_section("flywheel", FlywheelParams, raw.get("flywheel"), params)
    assert isinstance(section, FlywheelParams)
    return section.feedback


def _chain() -> None:
    reproduce()


def _log(message: str) -> None:
    print(f"flywheel: {message}", file=sys.stderr, flush=True)


_TAKE_OVER = click.Option(
    ["--take-over", "take_over"],
    is_flag=True,
    help="Finish the unfinished batch of a poller on another machine that will not come back (S3 feedback only).",
)
_INTERVAL = click.Option(
    ["--interval"], type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Seconds between polls."
)


def _command(name: str, callback: object, *options: click.Parameter) -> click.Command:
    text = callback.__doc__ or ""
    return click.Command(name, params=[*options, *params_options()], callback=callback, help=text)  # type: ignore[arg-type]


flywheel = click.Group(
    "flywheel",
    commands=[
        _command("poll", _poll, _TAKE_OVER),
        _command("watch", _watch, _INTERVAL),
        _command("status", _status),
    ],
    help="Train on user feedback: each new batch becomes a dataset version, a run, and a model that the gate judges.",
    short_help="Train on new feedback, once or in a loop; each batch exactly once.",
)
