"""`embedmill search`: the champion's best passages for a query, for a person or for a program."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from components.search.search import Hit

LINES = 3
CHARACTERS = 240


def _search(query: tuple[str, ...], k: int, model: str, as_json: bool) -> None:
    """Search the corpus for QUERY with the champion model."""
    from components.search.search import search

    hits = search(" ".join(query), k, model)
    if as_json:
        click.echo(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False, indent=1))
    elif sys.stdout.isatty():
        _print_rich(hits)
    else:
        for rank, hit in enumerate(hits, start=1):
            click.echo(f"{rank:>2}  {hit.score:.3f}  {hit.title}  [{_origin(hit)}]")
            for line in _first_lines(hit.text):
                click.echo(f"           {line}")


def _print_rich(hits: list[Hit]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    for rank, hit in enumerate(hits, start=1):
        head = Text.assemble(
            (f"{rank:>2}  ", "dim"), (f"{hit.score:.3f}  ", "cyan"), (hit.title, "bold"), (f"  {_origin(hit)}", "dim")
        )
        console.print(head)
        console.print(Padding(Text("\n".join(_first_lines(hit.text))), (0, 0, 1, 11)))


def _origin(hit: Hit) -> str:
    """Source, and the address unless the title says it already."""
    return f"{hit.source} {hit.url}" if hit.url and hit.title not in hit.url else hit.source


def _first_lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line if len(line) <= CHARACTERS else f"{line[: CHARACTERS - 1]}…" for line in lines[:LINES]]


search = click.Command(
    "search",
    params=[
        click.Argument(["query"], nargs=-1, required=True),
        click.Option(["-k", "k"], type=click.IntRange(min=1), default=5, show_default=True, help="Passages to show."),
        click.Option(
            ["--model"], default="champion", show_default=True, help="The champion, or a sentence-transformers folder."
        ),
        click.Option(["--json", "as_json"], is_flag=True, help="Print the hits as JSON, whole passages included."),
    ],
    callback=_search,
    help=_search.__doc__,
    short_help="Search the corpus with the champion model.",
)
