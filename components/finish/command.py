"""`embedmill finish`: what a pipeline does when it ends, well or not."""

from __future__ import annotations

import os
import re
import sys

import click

from components.core.errors import EmbedmillError, InputError, UsageError
from components.core.kubeflow import CLUSTER_KEY, ENDPOINT_KEY, PAGES_KEY
from components.finish.record import record_state
from components.finish.status import Status
from components.finish.webhook import tell
from components.launch import leftovers

ID = re.compile(r"[^'\s]+")  # MLflow's filters know no way to quote


@click.command(short_help="Record how a pipeline's run ended, and tell a webhook.")
@click.option("--status", "text", required=True, metavar="JSON", help="kfp's PipelineTaskFinalStatus.")
@click.option("--run", "run_id", required=True, metavar="ID", help="The run of the pipeline.")
@click.option("--name", required=True, metavar="NAME", help="Its name.")
@click.option("--recipe", default="", metavar="NAME", help="The recipe that it was started with.")
@click.option("--git-sha", default="", metavar="SHA", help="The commit that it was started from.")
@click.option("--webhook", default="", metavar="URL", help="Gets one JSON object by POST (bearer: WEBHOOK_TOKEN).")
def finish(text: str, run_id: str, name: str, recipe: str, git_sha: str, webhook: str) -> None:
    """Write the final state of a run into MLflow, and tell a webhook. A webhook that fails does not fail the step.

    Jobs of the cluster that the run's steps have left, since they were killed, are deleted.
    """
    status = Status.parse(text)
    if not ID.fullmatch(run_id):
        raise UsageError(f"--run {run_id!r}: expected the id of a run, as Kubeflow Pipelines fills it in")
    if CLUSTER_KEY in os.environ:
        leftovers.clear(run_id, _log)
    links = {"run": _page(run_id)}
    failure: InputError | None = None
    try:
        links["mlflow"] = record_state(run_id, name, status, recipe, git_sha)
    except InputError as error:
        failure = error
    ended = f"run {name} ended: {status.state}{f': {status.error}' if status.error else ''}"
    _log(f"{ended}; {links.get('mlflow', 'not in MLflow')}")
    if webhook:
        message = {
            "text": f"embedmill {ended}",  # what chat programs show
            "run": run_id,
            "name": name,
            "state": status.state,
            "error": status.error,
            "recipe": recipe,
            "commit": git_sha,
            "links": {key: link for key, link in links.items() if link.startswith(("http://", "https://"))},
        }
        try:
            tell(webhook, message)
        except EmbedmillError as error:
            _log(str(error))
    if failure is not None:
        raise failure


def _page(run_id: str) -> str:
    """The page of the run, where this environment knows the address of such pages."""
    pages = os.environ.get(PAGES_KEY) or os.environ.get(ENDPOINT_KEY) or ""
    return f"{pages.rstrip('/')}/#/runs/details/{run_id}" if pages else ""


def _log(message: str) -> None:
    print(f"finish: {message}", file=sys.stderr, flush=True)
