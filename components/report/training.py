"""What the teacher thought of the pairs, and how the losses went."""

from __future__ import annotations

from collections.abc import Sequence

from components.report.charts import Frame, Point, Series, figure_svg, histogram, line_chart
from components.report.evidence import Evidence, Histogram, Loss, Measured
from components.report.markup import Markup, element, join, trim
from components.report.page import Block, Column, figure, legend, note, table
from components.report.scale import count_scale, fixed_scale, linear_scale
from components.report.words import count, humanise, metric_name, share

HEIGHT = 260
PHASES = {"pretrain": "Pretraining", "finetune": "Fine-tuning"}
# Points of a loss curve; a longer log is averaged down to this many.
POINTS = 120
MARKED = 40  # measurements of a dev curve that are marked one by one


def scores_block(evidence: Evidence) -> Block:
    """The section about the scores that teachers gave."""
    filled = [scores for scores in evidence.histograms if any(one.rows for one in scores.bins)]
    body = element("div", *(score_figure(index, scores) for index, scores in enumerate(filled)), class_="figures")
    if not filled:
        body = note("No pair was scored: no language of this run has a teacher, so every row passed unscored.")
    lede = (
        "The cosine that the teacher gives the two texts of a pair. Retrieval pairs below the threshold were dropped; "
        "pairs of other tasks are kept whatever their score."
    )
    return Block("scores", "Scores", "How the teacher scored the pairs", lede, body)


def score_figure(index: int, scores: Histogram) -> Markup:
    """The histogram of one teacher."""
    threshold = scores.threshold
    filled = [index for index, one in enumerate(scores.bins) if one.rows]
    bins = scores.bins[filled[0] : filled[-1] + 1]
    total = sum(one.rows for one in bins)
    edges = [bins[0].low, bins[-1].high, *([] if threshold is None else [threshold])]
    x = fixed_scale(min(edges), max(edges), 6)
    y = count_scale(max(one.rows for one in bins))
    below = sum(one.rows for one in bins if threshold is not None and one.high <= threshold + 1e-9)
    split = any(one.low + 1e-9 < threshold < one.high - 1e-9 for one in bins) if threshold is not None else False
    told = f"{count(total)} pairs scored"
    if threshold is None:
        told += "; no threshold applies, so none was dropped by score."
    else:
        told += (
            f"; {'at least ' if split else ''}{count(below)} ({share(below, total)}) lie below {trim(threshold, 3)}."
        )
    drawing = histogram(bins, threshold, Frame(HEIGHT, x, y, "cosine of the pair", "pairs"))
    svg = figure_svg(f"scores-{index}", f"Scores by {scores.name}", told, HEIGHT, drawing)
    columns = (Column("From"), Column("To", number=True), Column("Pairs", number=True))
    rows = [(trim(one.low, 3), trim(one.high, 3), count(one.rows)) for one in bins]
    return figure(f"Teacher {scores.name}", told, svg, table(columns, rows, f"Scores by {scores.name}"))


def losses_block(evidence: Evidence) -> Block:
    """The section about losses: a row for each phase, a panel for each task."""
    rows: list[Markup] = []
    for phase, losses in evidence.losses.items():
        by_task: dict[str, list[Loss]] = {}
        for one in losses:
            by_task.setdefault(one.task, []).append(one)
        panels = [loss_figure(phase, task, by_task[task]) for task in sorted(by_task)]
        rows.append(element("h3", PHASES[phase], class_="group"))
        rows.append(
            element("div", *panels, class_="figures")
            if panels
            else note(f"No loss was logged: {phase} was not run or took no step.")
        )
        if evidence.dev[phase]:
            rows.append(element("div", dev_figure(phase, evidence.dev[phase]), class_="figures"))
    lede = (
        "Each task has its own axis, since the losses of different tasks are not comparable. Where a dev set was kept "
        "out of training, its measurements follow the losses; the best weights are what the phase leaves."
    )
    return Block("losses", "Losses", "How training went", lede, join(rows))


def loss_figure(phase: str, task: str, losses: Sequence[Loss]) -> Markup:
    """The loss curve of one task in one phase."""
    points = averaged(losses)
    spreads = [edge for point in points for edge in (point.spread or (point.y,))]
    x = fixed_scale(losses[0].step, losses[-1].step, 5)
    y = linear_scale(spreads, 6)
    name = f"{PHASES[phase]}, {humanise(task)}"
    told = f"{points[0].y:.3f} at the start, {points[-1].y:.3f} at step {count(losses[-1].step)}."
    if len(losses) > len(points):
        told += f" Each point is the mean of {run_length(losses)} logged steps; the band spans their range."
    series = Series(name, 0, points, markers=False)
    drawing = line_chart([series], Frame(HEIGHT - 20, x, y, "step", "loss"))
    svg = figure_svg(f"loss-{phase}-{anchor(task)}", f"Loss of {name}", told, HEIGHT - 20, drawing)
    rates = {one.step: one.lr for one in losses}
    rows = [(count(point.x), f"{point.y:.4f}", f"{rates[int(point.x)]:.3g}") for point in points]
    columns = (Column("Step"), Column("Loss", number=True), Column("Learning rate", number=True))
    return figure(humanise(task), told, svg, table(columns, rows, f"Loss of {name}"))


def dev_figure(phase: str, measured: Sequence[Measured]) -> Markup:
    """The dev set's curves, a task each."""
    by_task: dict[str, list[Measured]] = {}
    for one in measured:
        by_task.setdefault(one.task, []).append(one)
    names = {task: dev_name(task, ones[0].metric) for task, ones in by_task.items()}
    series = [
        Series(names[task], index, tuple(dev_point(one) for one in ones), markers=len(ones) <= MARKED)
        for index, (task, ones) in enumerate(by_task.items())
    ]
    steps = [one.step for one in measured]
    told = f"{count(len(set(steps)))} measurement{'s' if len(set(steps)) > 1 else ''}."
    best = [one for one in measured if one.best]
    if best:
        values = ", ".join(f"{names[one.task]} {one.value:.1f}" for one in best)
        told += f" The best after step {count(best[0].step)}: {values}."
    x, y = fixed_scale(min(steps), max(steps), 5), linear_scale([one.value for one in measured], 6)
    drawing = line_chart(series, Frame(HEIGHT - 20, x, y, "step", "percent"))
    title = f"Dev set, {PHASES[phase].lower()}"
    svg = figure_svg(f"dev-{phase}", title, told, HEIGHT - 20, drawing)
    columns = (Column("Step"), *(Column(one.name, number=True) for one in series))
    values_at = {(one.step, one.task): f"{one.value:.2f}" for one in measured}
    rows = [
        (count(step), *(values_at.get((step, task), "\u2013") for task in by_task)) for step in dict.fromkeys(steps)
    ]
    return figure("Dev set", told, svg, table(columns, rows, title), legend(series))


def dev_point(one: Measured) -> Point:
    """A measurement as a mark."""
    return Point(one.step, one.value, f"step {count(one.step)}: {one.value:.2f}{' (best)' if one.best else ''}")


def dev_name(task: str, metric: str) -> str:
    """A task of the dev set with its measure; the mean over tasks is one itself."""
    return humanise(task) if task == metric else f"{humanise(task)}, {metric_name(metric)}"


def run_length(losses: Sequence[Loss]) -> int:
    """How many logged losses one point of a curve stands for."""
    return -(-len(losses) // POINTS)


def averaged(losses: Sequence[Loss]) -> tuple[Point, ...]:
    """At most `POINTS` points: means over equal runs of the log, placed at the last step of each."""
    length = run_length(losses)
    points = []
    for start in range(0, len(losses), length):
        run = losses[start : start + length]
        values = [one.loss for one in run]
        spread = (min(values), max(values)) if len(run) > 1 else None
        points.append(Point(run[-1].step, sum(values) / len(values), spread=spread))
    return tuple(points)


def anchor(name: str) -> str:
    """A name as part of an id."""
    return "".join(character if character.isalnum() else "-" for character in name)
