"""What is written beside a trained classifier: the card that people read, its figures as JSON, and its curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from components.classifier.examples import Examples, Split
from components.classifier.figures import Point
from components.core.fingerprint import json_document

MODEL, CARD, README, CURVE = "model.skops", "card.json", "README.md", "precision_recall.svg"
_SIDE, _MARGIN = 280, 44


@dataclass(frozen=True)
class Result:
    """Everything that a card says: how the classifier was trained, how well it does, and how it is used."""

    label: str
    uri: str
    sha256: str
    threshold: float
    precision: float
    reached: bool
    average_precision: float
    points: tuple[Point, ...]
    chosen: Point
    curve: tuple[tuple[float, float], ...]
    columns: dict[str, str]
    positive: tuple[str, ...]
    license: str
    background: tuple[tuple[str, str], ...]
    settings: dict[str, object]


def card_json(result: Result, examples: Examples, parts: Split) -> bytes:
    """The figures and where they come from, for programs."""
    counts = {
        name: {"texts": len(rows), "positive": int(examples.positive[rows].sum())}
        for name, rows in (("fit", parts.fit), ("tune", parts.tune), ("test", parts.test))
    }
    card = {**asdict(result), "data": examples.files, "rows": examples.rows, "unused": examples.unused, **counts}
    return json_document(card)


def readme(result: Result, examples: Examples, parts: Split) -> bytes:
    """The card as Markdown with the Hugging Face hub's front matter."""
    unused = ", ".join(f"{rows:,} {reason}" for reason, rows in examples.unused.items()) or "none"
    reached = (
        f"the lowest, from one half on, at which {result.precision:.0%} of the dropped texts are right"
        if result.reached
        else f"no threshold reached the precision of {result.precision:.0%} that was asked for"
    )
    lines = [
        "---",
        f"license: {result.license}",
        "library_name: skops",
        "pipeline_tag: text-classification",
        "---",
        "",
        f"# {result.label}",
        "",
        f"Gives the probability that a text is `{result.label}`: logistic regression on hashed character "
        f"n-grams{' and words' if result.settings['words'] else ''}, trained with `embedmill classifier train`.",
        "",
        "## Use",
        "",
        "Under `filter.safety` or `filter.quality` of `params.yaml`; a pair goes when one of its sides reaches the "
        "threshold:",
        "",
        "```yaml",
        f"- {{name: {result.label}, uri: {result.uri}, label: {result.label}, threshold: {result.threshold},",
        f"   sha256: {result.sha256}}}",
        "```",
        "",
        "It is meant for cleaning training text like the text below. It is no judge of people: on other kinds of text, "
        "measure first.",
        "",
        "## Figures",
        "",
        f"On {len(parts.test):,} texts ({int(examples.positive[parts.test].sum()):,} positive) that it was neither "
        f"fitted nor tuned on; no text stands on two sides of the split. Average precision "
        f"{result.average_precision:.3f}.",
        "",
        "| threshold | precision | recall | F1 | other texts dropped |",
        "|---|---|---|---|---|",
        *(_row(point, f"{point.threshold:.2f}") for point in result.points),
        _row(result.chosen, f"**{result.threshold:.2f}**"),
        "",
        f"The threshold {result.threshold} was chosen on {len(parts.tune):,} other texts: {reached}.",
        "Where positives are rarer than among these texts, precision is lower, but not the share of others dropped.",
        "",
        f"![Precision by recall]({CURVE})",
        "",
        "## Data",
        "",
        f"{examples.rows:,} rows, `{result.columns['label']}` {' or '.join(f'`{each}`' for each in result.positive)} "
        f"counting as {result.label}; fitted on {len(parts.fit):,} texts "
        f"({int(examples.positive[parts.fit].sum()):,} positive).{_background(result)} Rows not used: {unused}.",
        "",
        "| file | SHA-256 |",
        "|---|---|",
        *(f"| `{uri}` | `{sha256}` |" for uri, sha256 in examples.files.items()),
        "",
        f"Licence of the data: {result.license}.",
    ]
    return ("\n".join(lines) + "\n").encode()


def curve_svg(curve: Sequence[tuple[float, float]], average_precision: float) -> bytes:
    """Precision (upwards) by recall, from 0 to 1 each."""
    points = " ".join(f"{_MARGIN + recall * _SIDE:.1f},{12 + (1 - p) * _SIDE:.1f}" for recall, p in curve)
    bottom, right = 12 + _SIDE, _MARGIN + _SIDE
    marks = "".join(
        f'<text x="{_MARGIN + share * _SIDE:.0f}" y="{bottom + 16}" text-anchor="middle">{share}</text>'
        f'<text x="{_MARGIN - 6}" y="{bottom - share * _SIDE + 4:.0f}" text-anchor="end">{share}</text>'
        for share in (0, 0.5, 1)
    )
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 12} {bottom + 40}" width="{right + 12}" '
        'role="img" font-family="sans-serif" font-size="12" fill="#444">\n'
        f"<title>Precision by recall, average precision {average_precision:.3f}</title>\n"
        f'<path d="M{_MARGIN} 12V{bottom}H{right}" fill="none" stroke="#999"/>{marks}\n'
        f'<text x="{_MARGIN + _SIDE / 2}" y="{bottom + 34}" text-anchor="middle">recall</text>'
        f'<text transform="translate(12 {12 + _SIDE / 2}) rotate(-90)" text-anchor="middle">precision</text>\n'
        f'<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="2"/>\n</svg>\n'
    )
    return svg.encode()


def _background(result: Result) -> str:
    given = ", ".join(f"column `{column}` of `{uri}`" for uri, column in result.background)
    return f" Background, none of it {result.label}: {given}." if given else ""


def _row(point: Point, threshold: str) -> str:
    return f"| {threshold} | {point.precision:.3f} | {point.recall:.3f} | {point.f1:.3f} | {point.wrong:.2%} |"
