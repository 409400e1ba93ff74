"""`embedmill ledger`: the funnel of rows as a table, and sample rows of any reason."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from components.core.errors import UsageError

if TYPE_CHECKING:
    from components.core.manifest import Dataset
    from components.ledger.sample import Lost

NARROW, WIDE, MARGIN, LINES = 60, 120, 14, 3  # columns and lines of a text on the terminal
# Fields of a record worth a line each, in this order.
TEXTS = ("text", "text_pos", "text_pair", "label", "text_neg", "html", "url")


def _show(datasets: tuple[str, ...], by_source: bool, source: str | None, as_json: bool) -> None:
    """The funnel of DATASETs: rows into and out of each stage, and why the others left.

    A DATASET is a step's name, a folder or an s3:// address; without any, those that the chain has made here. Only
    manifests are read.
    """
    from components.ledger.datasets import open_datasets
    from components.ledger.funnel import HEADER, funnel, source_table, table

    opened = open_datasets(datasets)
    sources = _sources(opened)
    if source is not None and source not in sources:
        raise UsageError(f"no rows of source {source!r}; there are {', '.join(sources)}")
    chosen = sources if source is None else [source]
    groups: list[str | None] = list(chosen) if by_source else [source]
    if as_json:
        _print_json(funnel(each, group).as_dict() for group in groups for each in opened if _has(each, group))
        return
    if by_source:
        header, *lines = source_table(opened, chosen)
    else:
        header, lines = HEADER, table([funnel(each, source) for each in opened if _has(each, source)])
        if source is not None:
            click.secho(f"source {source}", bold=True)
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    click.secho(_aligned(header, widths), dim=True)
    for line in lines:
        click.secho(_aligned(line, widths), bold=not by_source and not line[0].startswith(" ") and line[0] != "")


def _sample(reason: str, datasets: tuple[str, ...], rows: int, source: str | None, as_json: bool) -> None:
    """Sample rows that were lost for REASON, from the rejected rows beside each DATASET.

    The rows are drawn evenly from all of that reason, the same ones at every call. DATASET as in `ledger show`.
    """
    from components.ledger.datasets import open_datasets
    from components.ledger.sample import lost_rows, sample

    opened = open_datasets(datasets)
    having = [each for each in opened if lost_rows(each.ledger, reason, source)]
    if not having:
        places = ", ".join(each.uri for each in opened)
        raise UsageError(
            f"no row{_of(source)} was lost for {reason!r} in {places}; reasons: {_reasons(opened, source)}"
        )
    samples = {each.uri: sample(each, reason, rows, source) for each in having}
    if as_json:
        _print_json(row.as_dict() for found in samples.values() for row in found)
        return
    for number, each in enumerate(having):
        found = samples[each.uri]
        total = lost_rows(each.ledger, reason, source)
        click.secho(("\n" if number else "") + f"{each.step}: {reason}, {len(found)} of {total:,} rows", bold=True)
        for row in found:
            _print_row(row)


def _print_row(row: Lost) -> None:
    place = "" if row.offset is None else f", row {row.offset:,}"
    detail = f"  {printable(row.detail)}" if row.detail else ""
    click.echo(f"{click.style(f'  {row.source}{place}', fg='cyan')}{detail}")
    record = row.record if isinstance(row.record, Mapping) else {"raw": row.record}
    shown = [(name, record[name]) for name in TEXTS if record.get(name) not in (None, [])] or list(record.items())
    width = min(max(shutil.get_terminal_size((WIDE, 0)).columns, NARROW), WIDE) - MARGIN
    for name, value in shown:
        text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        lines = textwrap.wrap(text, width, max_lines=LINES, placeholder=" …") or [""]
        click.echo(f"    {click.style(f'{name:<9}', dim=True)} {lines[0]}")
        for line in lines[1:]:
            click.echo(f"{'':{MARGIN}}{line}")


def printable(text: str) -> str:
    """The text on one line, with what a terminal cannot or must not show (controls, bidi marks) as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """First and last column to the left, numbers to the right."""
    last = len(cells) - 1
    padded = (
        cell.ljust(width) if column in (0, last) else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join(padded).rstrip()


def _sources(datasets: Iterable[Dataset]) -> list[str]:
    """Sources in the order in which they come in, each once."""
    return list(dict.fromkeys(source for each in datasets for source in each.ledger.rows_in))


def _has(dataset: Dataset, source: str | None) -> bool:
    return source is None or source in dataset.ledger.rows_in


def _reasons(datasets: Iterable[Dataset], source: str | None) -> str:
    sides = [side for each in datasets for side in (each.ledger.dropped, each.ledger.quarantined)]
    found = {reason for side in sides for name in side if source in (None, name) for reason in side[name]}
    return ", ".join(sorted(found)) or "none, every row was kept"


def _of(source: str | None) -> str:
    return "" if source is None else f" of source {source!r}"


def _print_json(rows: Iterable[Mapping[str, Any]]) -> None:
    json.dump(list(rows), sys.stdout, ensure_ascii=False, indent=1)
    click.echo()


_DATASETS = click.Argument(["datasets"], nargs=-1, metavar="[DATASET]...")
_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, for a program.")
_SOURCE = click.Option(["--source"], metavar="NAME", help="Only rows of this source.")

ledger = click.Group(
    "ledger",
    commands=[
        click.Command(
            "show",
            params=[
                _DATASETS,
                click.Option(["--by-source"], is_flag=True, help="One table with a line for each source."),
                _SOURCE,
                _JSON,
            ],
            callback=_show,
            help=_show.__doc__,
            short_help="The funnel: rows in and out of each stage, and why the others left.",
        ),
        click.Command(
            "sample",
            params=[
                click.Argument(["reason"]),
                _DATASETS,
                click.Option(
                    ["--rows"], type=click.IntRange(min=1), default=5, show_default=True, help="Rows to show."
                ),
                _SOURCE,
                _JSON,
            ],
            callback=_sample,
            help=_sample.__doc__,
            short_help="Sample rows of one reason.",
        ),
    ],
    help="Where the rows of a run went: counts by stage, source and reason, and the rows themselves.",
    short_help="Where the rows went: the funnel as a table, sample rows of any reason.",
)
