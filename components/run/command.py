"""`embedmill run`: the whole chain through DVC, then what came of it."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from components.core import environment
from components.core.errors import InputError, UsageError
from components.core.reproduce import reproduce

LOCK_FILE = Path("dvc.lock")
METRICS = Path("reports/evaluate/metrics.json")
MODEL = "models/export"
EXAMPLES = Path("reports/evaluate/examples.json")
VERSION = Path("reports/register/version.json")
SEARCHES = 3
HITS = 3


@click.command(short_help="Run whatever has changed and show the result.")
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


def summary() -> Iterator[str]:
    """What a person wants to know at the end: the scores, three searches, and where everything is."""
    from components.core.scoreboard import table
    from components.search.search import CHAMPION

    version = _read(VERSION)
    yield "\n" + table(_read(METRICS))
    # a model that the gate refused is no champion, and there may be none yet
    refused = version["gate"] != "passed"
    yield from searches(MODEL if refused else CHAMPION)
    yield f"\nModel     {MODEL}  (MLflow: {version['name']} version {version['version']}, gate {version['gate']})"
    yield "Report    reports/report.html"
    yield f'Search    embedmill search {f"--model {MODEL} " if refused else ""}"what you are looking for"'


def searches(model: str) -> Iterator[str]:
    """Queries among the suite's examples that fit a line, with what the model finds for them in the whole corpus."""
    from components.search.search import search

    queries = [example["query"] for example in sorted(_read(EXAMPLES), key=lambda example: example["rank"])]
    # sorting by whether they fit keeps the others for a suite that has no query of that length
    for query in sorted(queries, key=lambda query: not 20 < len(query) < 90)[:SEARCHES]:
        yield f"\n? {query}"
        for hit in search(query, k=HITS, model=model):
            yield f"  {hit.score:.2f}  {hit.title}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the chain has not finished") from None
