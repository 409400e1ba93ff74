"""Options of every command that starts runs: where Kubeflow Pipelines is, and what a run is given."""

from __future__ import annotations

import click

from components.core.kubeflow import ENDPOINT_KEY, TOKEN_FILE_KEY, TOKEN_KEY

EXPERIMENT = "embedmill"

RUN = (
    click.Option(
        ["--param", "assigned"],
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter of the pipeline, such as nodes=2.",
    ),
    click.Option(["--image"], metavar="REF", help="Image of the data steps, by digest."),
    click.Option(["--train-image"], metavar="REF", help="Image of the other steps, by digest."),
    click.Option(
        ["--label"],
        multiple=True,
        metavar="KEY=VALUE",
        help="A label of all pods of a run and of its jobs, to group costs by.",
    ),
    click.Option(
        ["--experiment"], default=EXPERIMENT, show_default=True, metavar="NAME", help="Experiment; made if missing."
    ),
    click.Option(
        ["--service-account"],
        default="",
        metavar="NAME",
        help="Account of a run's pods, such as embedmill-train; by default Kubeflow's own.",
    ),
)
SERVER = (
    click.Option(["--host"], metavar="URL", help=f"Kubeflow Pipelines; by default {ENDPOINT_KEY}."),
    click.Option(["--namespace"], metavar="NS", help="Your namespace, where the server is for several users."),
    click.Option(
        ["--token-file"],
        metavar="FILE",
        help=f"Bearer token, read anew each time; or {TOKEN_KEY}, {TOKEN_FILE_KEY}.",
    ),
)
