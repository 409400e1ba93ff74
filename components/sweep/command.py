"""`embedmill sweep`: plan a grid, run it here, or choose among trials that ran elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from components import chain
from components.core import environment, lock, recipes, settings, storage
from components.core.command import GIVEN, params_options, read_parameters
from components.core.errors import InputError
from components.core.fingerprint import canonical_json
from components.core.reproduce import ChainFailed
from components.pod.failure import Failure, find_failure
from components.pod.shown import executor_output
from components.sweep.page import page
from components.sweep.params import SweepParams
from components.sweep.results import Outcome, Results, outcome_of
from components.sweep.trials import Trial, decode, plan

LOCK = ".embedmill/locks/sweep.lock"
OUTPUT = "reports/sweep"
RESULTS_CSV, RESULTS_JSON, RECIPE, PAGE = "results.csv", "results.json", "best.yaml", "sweep.html"
WIDTH = 200  # of the table where no terminal says its own


def _plan(output: str | None, pretrainings: str | None, **given: Any) -> None:
    """List the trials as JSON: name, values, and what each lays over the parameters."""
    parameters, origin = _parameters(**given)
    trials = plan(parameters, origin)
    listed = canonical_json([trial.encode() for trial in trials])
    if pretrainings is not None:
        different = dict.fromkeys(canonical_json(trial.pretraining) for trial in trials)
        storage.write_bytes(pretrainings, canonical_json([{"overrides": each} for each in different]).encode())
    if output is None:
        click.echo(json.dumps(json.loads(listed), indent=1, ensure_ascii=False))
    else:
        storage.write_bytes(output, listed.encode())


def _run(**given: Any) -> None:
    """Run the trials here, one after another, and show the table. Goes on where an earlier sweep was stopped."""
    from components.sweep.local import StepFailed, Workshop

    environment.quiet()
    parameters, origin = _parameters(**given)
    trials = plan(parameters, origin)
    params = _section(parameters, origin)
    outcomes: list[Outcome] = []
    with lock.hold(LOCK, "a sweep"):
        workshop = Workshop(parameters, trials, _log)
        for number, trial in enumerate(trials, start=1):
            title = f"trial {number} of {len(trials)}, {trial.title}"
            try:
                outcomes.append(_read_outcome(trial, params, workshop.run(trial, title)))
                _log(f"{title}: {params.metric} {outcomes[-1].value:.2f}")
            except StepFailed as failure:
                outcomes.append(Outcome(trial, failure=str(failure), exit_code=failure.code))
                _log(f"{title}: failed; the others go on")
        results = Results(params, outcomes)
        _write(results, OUTPUT)
    _show(results, OUTPUT)
    _refuse_failures(json.loads(results.json())["trials"])


def _check(output: str) -> None:
    """Fail if a trial has failed, as a run does whose table is there by then."""
    uri = storage.join(output, RESULTS_JSON)
    try:
        trials = json.loads(storage.read_bytes(uri))["trials"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{uri}: no results of a sweep ({type(error).__name__}: {error})") from None
    _refuse_failures(trials)


def _refuse_failures(trials: Sequence[Mapping[str, Any]]) -> None:
    """Raise ChainFailed, with the exit code of the step that failed first, unless every trial came to an end."""
    failed = [trial for trial in trials if trial["failure"]]
    if failed:
        first = f"{failed[0]['name']}: {failed[0]['failure']}"
        message = f"{len(failed)} of {len(trials)} trials failed, the first one {first}"
        raise ChainFailed(message, failed[0]["exit_code"])


def _choose(
    trials: str,
    metrics: str,
    output: str,
    page_path: str | None,
    figures: str | None,
    executor_input: str | None,
    **given: Any,
) -> None:
    """Write the table of trials that ran elsewhere, and the best of them as a recipe."""
    parameters, origin = _parameters(**given)
    params = _section(parameters, origin)
    listed, uris = decode(trials, "--trials"), _uris(metrics)
    if len(listed) != len(uris):
        raise InputError(f"--metrics: {len(uris)} for {len(listed)} trials")
    outcomes = [_read_outcome(trial, params, uri) for trial, uri in zip(listed, uris, strict=True)]
    results = Results(params, outcomes)
    _write(results, output)
    if page_path is not None:
        storage.write_bytes(page_path, page(results).encode())
    best = results.best()
    if executor_input is not None and best is not None:
        shown = {"best": best.mean, **{key: canonical_json(value) for key, value in best.values.items()}}
        artifact = {"name": "figures", "uri": figures or "", "metadata": shown}
        storage.write_bytes(
            executor_output(executor_input),
            canonical_json({"artifacts": {"figures": {"artifacts": [artifact]}}}).encode(),
        )
    _show(results, output)


def _parameters(
    params: str, assignments: tuple[str, ...], given: tuple[tuple[str, str], ...], recipe: str
) -> tuple[dict[str, Any], str]:
    """The sections, with a recipe under them, and what messages say they come from."""
    named = click.get_current_context().get_parameter_source("params") is not ParameterSource.DEFAULT
    path = params if named or not given else None
    parameters = recipes.lay_recipe(recipe, read_parameters(path, given, assignments))
    origin = path or GIVEN
    settings.check_sections(parameters, list(chain.sections()), origin)
    return parameters, origin


def _section(parameters: dict[str, Any], origin: str) -> SweepParams:
    section = settings.parse_section("sweep", SweepParams, parameters.get("sweep"), origin)
    assert isinstance(section, SweepParams)
    return section


def _uris(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(uri, str) for uri in value):
        raise InputError("--metrics: expected a JSON list of URIs, one for each trial in order")
    return value


def _read_outcome(trial: Trial, params: SweepParams, uri: str) -> Outcome:
    if find_failure([uri]):
        failure = Failure.read(uri)
        return Outcome(trial, failure=f"{failure.step}: {failure.said}", exit_code=failure.exit_code)
    try:
        metrics = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise InputError(f"{uri}: not valid JSON ({error})") from None
    return outcome_of(trial, params, metrics, uri)


def _write(results: Results, folder: str) -> None:
    storage.write_bytes(storage.join(folder, RESULTS_CSV), results.csv())
    storage.write_bytes(storage.join(folder, RESULTS_JSON), results.json())
    storage.write_bytes(storage.join(folder, RECIPE), results.recipe())
    storage.write_bytes(storage.join(folder, PAGE), page(results).encode())


def _show(results: Results, folder: str) -> None:
    """Print the table, the best trials marked where colours can be seen, and where to look next."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    best = results.best()
    table = Table(*results.columns(), box=box.SIMPLE)
    for outcome, row in zip(results.outcomes, results.rows(), strict=True):
        is_best = best is not None and outcome.trial.point == best.name
        table.add_row(*row, style="bold green" if is_best else "red" if outcome.failure else None)
    Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False, markup=False).print(table)
    click.echo(f"Best: {results.summary()}")
    click.echo(f"\nPage      {storage.join(folder, PAGE)}")
    if best is not None:
        click.echo(f"Recipe    {storage.join(folder, RECIPE)}")


def _log(message: str) -> None:
    print(f"sweep: {message}", file=sys.stderr, flush=True)


def _options(*more: click.Parameter) -> Sequence[click.Parameter]:
    return [
        *more,
        *params_options(),
        click.Option(
            ["--section", "given"], multiple=True, nargs=2, metavar="NAME JSON", help="A whole section, as JSON."
        ),
        click.Option(["--recipe"], default="", metavar="NAME|FILE", help="Recipe to lay under the sections."),
    ]


_OUTPUT = click.Option(["--output"], default=OUTPUT, show_default=True, metavar="URI", help="Folder of the results.")

sweep = click.Group(
    "sweep",
    commands=[
        click.Command(
            "plan",
            params=[
                *_options(
                    click.Option(["--output"], metavar="FILE", help="Where to write the list; else it is printed."),
                    click.Option(["--pretrainings"], metavar="FILE", help="Where to list what differs in pretraining."),
                )
            ],
            callback=_plan,
            help=_plan.__doc__,
            short_help="List the trials as JSON.",
        ),
        click.Command("run", params=[*_options()], callback=_run, help=_run.__doc__, short_help="Run the trials here."),
        click.Command(
            "choose",
            params=[
                *_options(
                    click.Option(["--trials"], required=True, metavar="JSON", help="The list that `plan` writes."),
                    click.Option(
                        ["--metrics"], required=True, metavar="JSON", help="URIs of their metrics.json, in that order."
                    ),
                    _OUTPUT,
                    click.Option(["--page", "page_path"], metavar="FILE", help="Where the page is written as well."),
                    click.Option(["--figures"], metavar="URI", help="Metrics artefact of Kubeflow Pipelines."),
                    click.Option(["--executor-input"], metavar="JSON", help="Says where its figures are told."),
                )
            ],
            callback=_choose,
            help=_choose.__doc__,
            short_help="Choose among trials that ran elsewhere.",
        ),
        click.Command("check", params=[_OUTPUT], callback=_check, help=_check.__doc__),
    ],
    help="Try every combination of some values, each trained and measured, and make the best one a recipe.",
    short_help="Grid search over parameters of training; the best becomes a recipe.",
)
