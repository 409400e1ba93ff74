"""`embedmill run`: the whole chain through DVC, then what came of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from components.core import environment
from components.core.errors import EmbedmillError, InputError, UsageError

LOCK_FILE = Path("dvc.lock")
METRICS = Path("reports/evaluate/metrics.json")
EXAMPLES = Path("reports/evaluate/examples.json")
VERSION = Path("reports/register/version.json")
SEARCHES = 3
HITS = 3
# dvc's own words for a stage whose command failed; the step has already said why
EXIT_CODE = re.compile(r"exited with (\d+)")


class ChainFailed(EmbedmillError):
    """A stage failed; the exit code is the step's own, so that scripts see one meaning everywhere."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@click.command(short_help="Run whatever has changed, from sources to report, and show the result.")
@click.argument("targets", nargs=-1)
def run(targets: tuple[str, ...]) -> None:
    """Run whatever has changed, from sources to report (or up to TARGETS), and show the result."""
    from components.core.tracking import git_state

    environment.quiet()
    if not Path("dvc.yaml").is_file():
        raise UsageError("no dvc.yaml here; run from the project's folder")
    if note := git_state().note:
        print(f"embedmill: {note}", file=sys.stderr)
    before, started = _digest(LOCK_FILE), time.monotonic()
    reproduce(targets)
    if _digest(LOCK_FILE) == before:
        click.echo("\nNothing to do: every step is up to date.")
    else:
        click.echo(f"\nThe chain took {time.monotonic() - started:.0f} s.")
    if not targets:
        for block in summary():
            click.echo(block)


def reproduce(targets: tuple[str, ...] = ()) -> None:
    """Run `dvc repro`. Raises ChainFailed with the exit code of the step that failed."""
    use_git(Path())
    command = [sys.executable, "-m", "dvc", "repro", *targets]
    # dvc's messages are read for the exit code of a failed step; steps draw their progress on the terminal themselves
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        code = 1
        try:
            for line in process.stderr:
                sys.stderr.write(line)
                found = EXIT_CODE.search(line)
                code = int(found.group(1)) if found else code
        except KeyboardInterrupt:
            process.wait()
            raise
    if process.returncode:
        raise ChainFailed("the chain stopped; what is finished is kept, run it again to go on", code)


def use_git(folder: Path) -> None:
    """Tell DVC whether there is a git repository around `folder`, since it refuses to run without one unless told."""
    path = folder / ".dvc" / "config.local"
    with_git = any((parent / ".git").exists() for parent in (folder.resolve(), *folder.resolve().parents))
    subprocess_arguments = ["--unset", "core.no_scm"] if with_git else ["core.no_scm", "true"]
    if with_git and not (path.exists() and "no_scm" in path.read_text()):
        return
    if not with_git and path.exists() and "no_scm = true" in path.read_text():
        return
    path.parent.mkdir(exist_ok=True)
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([sys.executable, "-m", "dvc", "config", "--local", *subprocess_arguments], env=env, check=True)


def summary() -> Iterator[str]:
    """What a person wants to know at the end: the scores, three searches, and where everything is."""
    from components.core.scoreboard import table

    version = _read(VERSION)
    yield "\n" + table(_read(METRICS))
    yield from searches()
    yield f"\nModel     models/export  (MLflow: {version['name']} version {version['version']}, gate {version['gate']})"
    yield "Report    reports/report.html"
    yield 'Search    embedmill search "read a csv file into a table"'


def searches() -> Iterator[str]:
    """Three queries that the suite held out, with the best hits that the champion finds for them."""
    from components.search.search import search

    for example in _read(EXAMPLES)[:SEARCHES]:
        yield f"\n? {example['query']}"
        for hit in search(example["query"], k=HITS):
            yield f"  {hit.score:.2f}  {hit.title}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the chain has not finished") from None
