"""`embedmill record`: the last task of a pipeline that went well."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from components.core import environment, lock, recipes, settings, storage
from components.core.errors import UsageError
from components.record import project, repository

WORK = Path(".embedmill/record")
WAIT_SECONDS = 20.0
RECORDS = "records"
KEPT = (project.PARAMS, project.LOCK)


@click.command(short_help="Record a cluster's run in DVC, on a branch.")
@click.option("--root", required=True, metavar="URI", help="The store: DVC's remote is ROOT/dvc.")
@click.option("--run", "run_id", required=True, metavar="ID", help="The pipeline's run; the branch is runs/ID.")
@click.option("--repository", "url", default="", metavar="URL", help="Git repository; without one: ROOT/records/ID.")
@click.option("--commit", default="", metavar="SHA", help="Commit in it that the run's code is of.")
@click.option("--recipe", default="", metavar="NAME", help="Recipe that the run was given.")
@click.option("--section", "given", multiple=True, nargs=2, metavar="NAME JSON", help="A section that it was given.")
@click.option("--in", "inputs", multiple=True, nargs=2, metavar="STEP.PORT URI", help="An output; an empty URI: none.")
def record(
    root: str,
    run_id: str,
    url: str,
    commit: str,
    recipe: str,
    given: tuple[tuple[str, str], ...],
    inputs: tuple[tuple[str, str], ...],
) -> None:
    """Write dvc.lock from the outputs of a run, push them to DVC's remote, and commit that on a branch of their own."""
    if not root:
        raise UsageError("--root: is empty; expected s3://bucket/prefix")
    repository.check_run(run_id)
    if url:
        repository.check(url, commit)
    sections = recipes.lay_recipe(recipe, settings.read_sections(given))
    environment.quiet()
    root = root.rstrip("/") if storage.is_s3(root) else str(storage.local_path(root).absolute())
    with lock.hold(f".embedmill/locks/record-{run_id}.lock", "this command", WAIT_SECONDS):
        work = WORK / run_id
        shutil.rmtree(work, ignore_errors=True)  # of an attempt that was killed
        clone = _clone(url, commit, work / "project") if url else None
        if clone is None:
            project.copy_home(work / "project")
        _keep(work / "project", root, sections, [(name, uri) for name, uri in inputs if uri])
        if clone is not None:
            made, new = clone.publish(run_id, (*KEPT, project.CONFIG))
            _say(f"{repository.BRANCHES}/{run_id} is {made}{'' if new else ', as it was'}")
        else:
            place = storage.join(root, RECORDS, run_id)
            for name in KEPT:
                storage.upload(work / "project" / name, storage.join(place, name))
            _say(f"{place} holds {' and '.join(KEPT)}")
        shutil.rmtree(work)


def _clone(url: str, commit: str, folder: Path) -> repository.Clone:
    clone = repository.Clone.make(url, folder)
    clone.check_out(commit)
    project.check_code(folder, commit)
    return clone


def _keep(folder: Path, root: str, sections: Mapping[str, Any], inputs: Sequence[tuple[str, str]]) -> None:
    project.write_params(folder, sections)
    size = project.fetch_outputs(folder, inputs)
    _say(f"{size:,} bytes fetched")
    remote = storage.join(root, "dvc")
    stages, left_out = project.commit_and_push(folder, remote)
    _say(f"{', '.join(stages)}: in dvc.lock, and in {remote}")
    if left_out:
        _say(f"{', '.join(left_out)}: left out, since their files are not all among --in")


def _say(message: str) -> None:
    click.echo(f"record: {message}", err=True)
