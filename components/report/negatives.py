"""How hard the mined negatives were while the model learned (Conan-embedding, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence

from components.report.charts import Frame, Point, Series, figure_svg, line_chart
from components.report.evidence import Evidence, Hardness
from components.report.markup import Markup, element
from components.report.page import Block, Column, figure, legend, note, table
from components.report.scale import count_scale, fixed_scale, linear_scale
from components.report.words import count

HEIGHT = 260
# Points of a curve; a longer log is averaged down to this many.
POINTS = 60
KINDS = {"standard": "standard mining", "dynamic": "dynamic mining"}


def negatives_block(evidence: Evidence) -> Block:
    """The section about hard negatives."""
    rows = evidence.hardness
    lede = (
        "The cosine of a query and its positive, and its mean cosine with the negatives that were mined for it. Where "
        "mining is dynamic, negatives that have become easy are replaced by others of the query's list."
    )
    seen = any(row.negative is not None for row in rows)
    body = element("div", *hardness_figures(rows), class_="figures") if seen else note("No hard negatives were mined.")
    return Block("negatives", "Negatives", "How hard the negatives were", lede, body)


def hardness_figures(rows: Sequence[Hardness]) -> list[Markup]:
    """Scores by step for each kind of mining, and replacements where there were any."""
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in rows)]
    by_kind = {kind: [row for row in rows if row.kind == kind] for kind in kinds}
    figures = [scores_figure(by_kind)]
    if any(row.replaced for row in rows):
        figures.append(replaced_figure([row for row in rows if row.kind == "dynamic"]))
    return figures


def scores_figure(by_kind: dict[str, list[Hardness]]) -> Markup:
    """Positive and negative scores by step."""
    series: list[Series] = []
    for kind, rows in by_kind.items():
        for side in ("positive", "negative"):
            cosines = [(row.step, getattr(row, side)) for row in rows if getattr(row, side) is not None]
            series.append(Series(f"{side}, {KINDS[kind]}", len(series), averaged(cosines), markers=False))
    series = [one for one in series if one.points]
    values = [point.y for one in series for point in one.points]
    steps = [row.step for rows in by_kind.values() for row in rows]
    frame = Frame(HEIGHT, fixed_scale(min(steps), max(steps), 5), linear_scale(values, 6), "step", "cosine")
    told = "; ".join(
        f"{one.name}: {one.points[0].y:.3f} at the start, {one.points[-1].y:.3f} at last" for one in series
    )
    svg = figure_svg("negatives-scores", "Scores by step", told, HEIGHT, line_chart(series, frame))
    columns = (Column("Step"), *(Column(one.name.capitalize(), number=True) for one in series))
    by_step: dict[float, list[str]] = {}
    for place, one in enumerate(series):
        for point in one.points:
            by_step.setdefault(point.x, ["\u2013"] * len(series))[place] = f"{point.y:.4f}"
    numbers = table(columns, [(count(step), *cells) for step, cells in sorted(by_step.items())], "Scores by step")
    return figure("Scores", f"{told}.", svg, numbers, legend(series))


def replaced_figure(rows: Sequence[Hardness]) -> Markup:
    """Items with new negatives at each check."""
    checks = [row for row in rows if row.replaced]
    points = tuple(Point(row.step, row.replaced, f"step {count(row.step)}: {count(row.replaced)}") for row in checks)
    frame = Frame(
        HEIGHT,
        fixed_scale(rows[0].step, rows[-1].step, 5),
        count_scale(max(row.replaced for row in checks)),
        "step",
        "queries with new negatives",
    )
    told = (
        f"{count(sum(row.replaced for row in checks))} replacements at {count(len(checks))} checks; "
        f"{rows[-1].left:.1f} candidates a query were left at last."
    )
    series = Series("replaced", 0, points, markers=len(points) <= POINTS)
    svg = figure_svg("negatives-replaced", "Replacements by step", told, HEIGHT, line_chart([series], frame))
    columns = (Column("Step"), Column("Replaced", number=True), Column("Candidates left", number=True))
    cells = [(count(row.step), count(row.replaced), f"{row.left:.1f}") for row in checks]
    return figure("Replacements", told, svg, table(columns, cells, "Replacements by step"))


def averaged(values: Sequence[tuple[int, float]]) -> tuple[Point, ...]:
    """At most `POINTS` points: means over equal runs of the log, placed at the last step of each."""
    length = -(-len(values) // POINTS) or 1
    runs = [values[start : start + length] for start in range(0, len(values), length)]
    return tuple(Point(run[-1][0], sum(value for _, value in run) / len(run)) for run in runs)
