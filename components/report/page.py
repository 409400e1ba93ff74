"""The frame of the page and its building blocks: figures with their numbers folded below, tables, notes."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from components.report.charts import MARKERS, STYLES, Series
from components.report.markup import Child, Markup, element, join
from components.report.theme import PAGE

ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Cpath fill='%230b62a8' d='M1 13h3V8H1zm5 0h3V5H6zm5 0h3V2h-3z'/%3E%3C/svg%3E"
)


@dataclass(frozen=True)
class Column:
    """A column of a table; numbers stand to the right."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Block:
    """A section of the page: `anchor` is its address in the page, `name` its entry in the navigation."""

    anchor: str
    name: str
    title: str
    lede: Child
    body: Markup


def policy(style: str) -> str:
    """A Content-Security-Policy under which the page can load nothing and run nothing.

    Its own style sheet is admitted by digest and its icon as data, all else is refused.
    """
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def document(title: str, header: Markup, blocks: Sequence[Block], footer: Child) -> bytes:
    """The whole HTML file as UTF-8 bytes."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy(PAGE)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("link", rel="icon", href=ICON),
        Markup(f"<style>{PAGE}</style>"),
    )
    links = join(element("a", block.name, href=f"#{block.anchor}") for block in blocks)
    sections = join(
        element(
            "section",
            element("h2", block.title, id=f"{block.anchor}-heading"),
            element("p", block.lede, class_="lede"),
            block.body,
            id=block.anchor,
            aria_labelledby=f"{block.anchor}-heading",
        )
        for block in blocks
    )
    sheet = element(
        "div",
        element("header", header, element("nav", links, aria_label="Sections")),
        element("main", sections),
        element("footer", footer),
        class_="sheet",
    )
    page = element("html", head, element("body", sheet), lang="en")
    return f"<!doctype html>\n{page}\n".encode()


def table(columns: Sequence[Column], rows: Sequence[Sequence[Child]], label: str, best: Sequence[int] = ()) -> Markup:
    """A table that scrolls inside its own box; the first cell of a row heads it.

    `best` holds, for each row, the column to emphasise (-1 for none).
    """
    head = element("tr", *(element("th", c.title, scope="col", class_="n" if c.number else None) for c in columns))
    body = []
    for number, row in enumerate(rows):
        cells = []
        for index, (column, cell) in enumerate(zip(columns, row, strict=True)):
            if index == 0:
                cells.append(element("th", cell, scope="row", class_="n" if column.number else None))
                continue
            emphasised = number < len(best) and best[number] == index
            names = " ".join(name for name, use in (("n", column.number), ("best", emphasised)) if use)
            cells.append(element("td", cell, class_=names or None))
        body.append(element("tr", *cells))
    grid = element("table", element("thead", head), element("tbody", *body))
    return element("div", grid, class_="scroll", role="region", aria_label=label, tabindex=0)


def figure(
    title: str, note: Child, chart: Markup, numbers: Markup, legend: Markup | None = None, bars: bool = False
) -> Markup:
    """A card with a chart, its caption and the numbers behind it, folded away."""
    caption = element("figcaption", element("h3", title), element("p", note) if note else None)
    plot = element("div", chart, class_="plot bars" if bars else "plot")
    fold = element("details", element("summary", "Show the numbers"), numbers)
    return element("figure", caption, legend, plot, fold, class_="card")


def legend(series: Sequence[Series]) -> Markup:
    """Names of the series beside a piece of their line."""
    entries = []
    for one in series:
        style = f"s{one.style % STYLES}"
        swatch = element(
            "svg",
            element("line", class_=f"curve {style}", x1="1", x2="29", y1="7", y2="7"),
            None
            if one.level
            else element(
                "path", class_=f"marker {style}", d=MARKERS[one.style % len(MARKERS)], transform="translate(15 7)"
            ),
            width=30,
            height=14,
            aria_hidden="true",
        )
        entries.append(element("li", swatch, element("span", one.name)))
    return element("ul", *entries, class_="legend")


def note(text: Child) -> Markup:
    """A line in the place of a figure that could not be drawn."""
    return element("p", text, class_="note")


def pill(text: str, kind: str = "") -> Markup:
    """A short state in a rounded field; kind is "good", "warn" or nothing."""
    return element("span", text, class_=f"pill {kind}".strip())
