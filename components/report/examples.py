"""Hits and misses: queries, what came back for them, and where the right passage stood."""

from __future__ import annotations

from collections.abc import Sequence

from components.report.evidence import Evidence, Example, Hit
from components.report.markup import Markup, element, join
from components.report.page import Block, note, pill
from components.report.words import columns_of, count

# Columns of a passage that are shown; a reader wants to recognise it, not to read it.
PASSAGE = 260
# Examples of a kind that stand open: a row on a laptop.
SHOWN = 2


def examples_block(evidence: Evidence) -> Block:
    """The section that shows real queries."""
    hits = [one for one in evidence.examples if one.rank == 1]
    misses = [one for one in evidence.examples if one.rank != 1]
    groups = [group("Found at the first rank", hits), group("Not found at the first rank", misses)]
    body = join(groups)
    if not evidence.examples:
        body = note("There are no examples: the suite has no retrieval task, or evaluate.examples is 0.")
    lede = (
        "Queries of the suite as the model answers them at its full dimension, with the cosine of each passage. "
        "They illustrate; the tables above measure."
    )
    return Block("examples", "Examples", "Hits and misses", lede, body)


def group(title: str, examples: Sequence[Example]) -> Markup | None:
    """The examples of one kind, all but the first few folded away."""
    if not examples:
        return None
    cards = [card(one) for one in examples]
    fold = None
    if rest := cards[SHOWN:]:
        fold = element(
            "details", element("summary", f"Show {len(rest)} more"), element("div", *rest, class_="examples")
        )
    return join([element("h3", title, class_="group"), element("div", *cards[:SHOWN], class_="examples"), fold])


def card(example: Example) -> Markup:
    """One query with its passages; the right one is added at the end where it did not come back."""
    hits = [passage(hit, f"{place} \u00b7 {hit.score:.2f}") for place, hit in enumerate(example.hits, 1)]
    if not any(hit.right for hit in example.hits):
        where = f"rank {count(example.rank)}" if example.rank else "not among the passages looked at"
        hits.append(passage(Hit(example.passage, 0.0, True), f"\u2026 {where}"))
    rank = f"rank {count(example.rank)}" if example.rank else "not found"
    place = pill(rank, "good" if example.rank == 1 else "warn")
    head = element("div", place, element("span", example.task), class_="meta")
    query = element("p", example.query, class_="query", dir="auto")
    return element("article", head, query, element("ol", *hits, class_="hits"), class_="card example")


def passage(hit: Hit, by: str) -> Markup:
    """A passage under its place and score."""
    line = element("div", f"{by} \u00b7 the right passage" if hit.right else by, class_="by")
    text = element("div", shorten(hit.text), class_="passage", dir="auto")
    return element("li", line, text, class_="hit right" if hit.right else "hit")


def shorten(text: str) -> str:
    """The beginning of a text: its first line, then the rest as running text, cut at a space if one is near."""
    first, _, rest = text.strip().partition("\n")
    text = f"{first}\n{' '.join(rest.split())}".strip()
    if columns_of(text) <= PASSAGE:
        return text
    end = used = 0
    while used + columns_of(text[end]) <= PASSAGE:
        used += columns_of(text[end])
        end += 1
    head = text[:end]
    space = max(head.rfind(" "), head.rfind("\n"))
    return (head[:space] if space > 0.8 * end else head).rstrip() + " \u2026"
