"""Measured quality: score by dimension against size, and every system on every task."""

from __future__ import annotations

from collections.abc import Sequence

from components.report.charts import Frame, Point, Series, figure_svg, line_chart
from components.report.evidence import Evidence, Quality, main_metric
from components.report.markup import Child, Markup, element, join
from components.report.page import Block, Column, figure, legend, note, table
from components.report.scale import linear_scale, log_scale
from components.report.words import count, metric_name, share, size, system_name

HEIGHT = 320
MODEL = "model"


def tasks(quality: Sequence[Quality]) -> list[str]:
    """Tasks in the order of the suite."""
    return list(dict.fromkeys(one.task for one in quality))


def systems(quality: Sequence[Quality]) -> list[str]:
    """Systems, the model first, the others in the order in which they were measured."""
    names = dict.fromkeys(one.system for one in quality)
    return sorted(names, key=lambda name: name != MODEL)


def main_values(quality: Sequence[Quality], task: str, system: str) -> list[Quality]:
    """The main measure of a system on a task, by dimension."""
    metric = main_metric(quality, task)
    found = [one for one in quality if (one.task, one.system, one.metric) == (task, system, metric)]
    return sorted(found, key=lambda one: one.dim or 0)


def full_value(quality: Sequence[Quality], task: str, system: str) -> Quality | None:
    """The main measure at the full dimension; None where the system was not measured on the task."""
    return next(reversed(main_values(quality, task, system)), None)


def dimension_series(quality: Sequence[Quality], task: str) -> list[Series]:
    """A curve over bytes for each system with several dimensions, a level for each other one."""
    series = []
    for style, system in enumerate(systems(quality)):
        values = main_values(quality, task, system)
        if not values:
            continue
        curve = [one for one in values if one.bytes_per_vector]
        if len(curve) > 1 or (system == MODEL and curve):
            points = tuple(Point(one.bytes_per_vector or 0, one.value, tip(one)) for one in curve)
            series.append(Series(system_name(system), style, points, labels=system == MODEL))
        else:
            points = (Point(0, values[-1].value, tip(values[-1])),)
            series.append(Series(system_name(system), style, points, level=True))
    return series


def tip(one: Quality) -> str:
    """What the pointer shows at a point."""
    place = f", {count(one.dim)} dimensions" if one.dim else ""
    place += f", {size(one.bytes_per_vector)} a vector" if one.bytes_per_vector else ""
    return f"{system_name(one.system)}{place}: {one.value:.1f}"


def cuts(quality: Sequence[Quality], task: str) -> str | None:
    """What the model keeps of its score at about a quarter of its dimensions and at the fewest; None without a cut."""
    values = [one for one in main_values(quality, task, MODEL) if one.dim]
    if len(values) < 2 or values[-1].value <= 0:
        return None
    full = values[-1]
    quarter = min(values[:-1], key=lambda one: abs(4 * (one.dim or 0) - (full.dim or 0)))
    chosen = [quarter] if quarter is values[0] else [quarter, values[0]]
    kept = " and ".join(f"{share(one.value, full.value)} at {count(one.dim or 0)}" for one in chosen)
    return f"Cut short, it keeps {kept} dimensions."


def dimension_frame(quality: Sequence[Quality], task: str, series: Sequence[Series]) -> Frame:
    """Logarithmic axis of vector sizes with a tick at each measured one, and the axis of the measure."""
    dims = {one.bytes_per_vector: one.dim for one in quality if one.bytes_per_vector and one.dim}
    sizes = sorted({int(point.x) for one in series if not one.level for point in one.points})
    marks = [(float(at), f"{dims[at]}\n{size(at)}") for at in sizes] or [(1.0, "")]
    y = linear_scale([point.y for one in series for point in one.points])
    return Frame(HEIGHT, log_scale(marks), y, "dimensions, bytes per vector", metric_name(main_metric(quality, task)))


def dimension_figure(quality: Sequence[Quality], index: int, task: str) -> Markup:
    """Score by dimension on one task, with the other systems beside."""
    series = dimension_series(quality, task)
    measure = metric_name(main_metric(quality, task))
    own = full_value(quality, task, MODEL)
    if own is None:
        told = "The model was not measured on this task."
    else:
        told = f"{measure} {own.value:.1f}" + (f" with {count(own.dim)} dimensions. " if own.dim else ". ")
        told += cuts(quality, task) or "Only one dimension was measured, so there is a point and no curve."
    drawing = line_chart(series, dimension_frame(quality, task, series))
    svg = figure_svg(f"dimensions-{index}", f"Score by dimension on {task}", told, HEIGHT, drawing)
    columns = (Column("System"), *(Column(title, number=True) for title in ("Dimensions", "Bytes", measure)))
    rows = [
        (system_name(one.system), number(one.dim), number(one.bytes_per_vector), f"{one.value:.2f}")
        for system in systems(quality)
        for one in main_values(quality, task, system)
    ]
    return figure(task, told, svg, table(columns, rows, f"Score by dimension on {task}"), legend(series))


def dimensions_block(evidence: Evidence) -> Block:
    """The section about score against size."""
    quality = evidence.quality
    figures = [dimension_figure(quality, index, task) for index, task in enumerate(tasks(quality))]
    lede = (
        "A vector may be cut to its first dimensions: how much quality is left for how many bytes. "
        "Systems with a single size are drawn as levels."
    )
    body = element("div", *figures, class_="figures") if figures else note("Nothing was measured: the suite is empty.")
    return Block("dimensions", "Dimensions", "Score by dimension against size", lede, body)


def baselines_block(evidence: Evidence) -> Block:
    """The section that sets every system beside the others, task by task."""
    quality = evidence.quality
    names, suite = systems(quality), tasks(quality)
    lede = "Every system at its full dimension; the best of a row stands out."
    title = "The model beside its baselines"
    if not suite:
        return Block("baselines", "Baselines", title, lede, note("Nothing was measured: the suite is empty."))
    rows: list[tuple[Child, ...]] = []
    best = []
    for task in suite:
        values = [full_value(quality, task, name) for name in names]
        known = [(one.value, -index) for index, one in enumerate(values) if one]
        best.append(1 - max(known)[1])
        measure = element("div", metric_name(main_metric(quality, task)), class_="by")
        cells = [f"{one.value:.1f}" if one else "\u2013" for one in values]
        rows.append((join([task, measure]), *cells))
    columns = (Column("Task"), *(Column(system_name(name), number=True) for name in names))
    grid = table(columns, rows, "Systems by task", best)
    every = [
        (one.task, system_name(one.system), number(one.dim), metric_name(one.metric), f"{one.value:.2f}")
        for one in quality
    ]
    heads = [
        Column(title, number=title in ("Dimensions", "Value"))
        for title in ("Task", "System", "Dimensions", "Measure", "Value")
    ]
    fold = element("details", element("summary", "Show every measure"), table(heads, every, "Every measured value"))
    return Block("baselines", "Baselines", title, lede, element("div", grid, fold, class_="card"))


def number(value: int | None) -> str:
    """A whole number, or a dash where a system has none."""
    return f"{value:,}" if value else "\u2013"
