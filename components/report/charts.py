"""Charts as SVG without script: horizontal coordinates are percentages, so a chart fills any width at one text size.

Every chart draws into the viewport it is put in: `figure_svg` gives it a line of its own in a page,
`components.report.picture` a fixed frame in a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from components.report.markup import Markup, element, join, trim
from components.report.scale import Scale

TOP, BOTTOM = 30, 44  # room for the title of the y axis; for tick labels and the title of the x axis
LEVEL_NAME = 12  # longest name of a level that is written beside its line
LINE = 15  # a further line of tick labels
ROW, BAR = 40, 10  # height of a labelled bar with its label; of the bar alone
STYLES = 8  # series styles (colour, dash, marker) that the theme defines
SPAN = 1000  # length of the x axis in a curve's own coordinates
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.6L4.6 3.4h-9.2z",
    "M0-5L5 0L0 5L-5 0z",
    "M-4.6-3.4h9.2L0 4.6z",
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-3.4-4.6L4.6 0L-3.4 4.6z",
    "M3.4-4.6L-4.6 0L3.4 4.6z",
)


Kind = Literal["strong", "plain", "lost", "doubtful"]


@dataclass(frozen=True)
class Point:
    """A value of a series; `tip` shows when the pointer rests on it, `spread` is the range that it averages."""

    x: float
    y: float
    tip: str = ""
    spread: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """A curve through its points, or a level: one value drawn across the whole width."""

    name: str
    style: int
    points: tuple[Point, ...]
    level: bool = False
    markers: bool = True
    labels: bool = False


@dataclass(frozen=True)
class Bar:
    """A labelled horizontal bar from `start` to `end` (data units)."""

    label: str
    value: str
    start: float
    end: float
    kind: Kind
    tip: str = ""
    inset: bool = False


@dataclass(frozen=True)
class Bin:
    """A bar of a histogram."""

    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Frame:
    """The axes that a plot of this total height is drawn in. A tick label of the x axis may have a second line."""

    height: float
    x: Scale
    y: Scale
    x_title: str
    y_title: str

    @property
    def floor(self) -> float:
        """Where the x axis lies."""
        two = any("\n" in label for _, label in self.x.ticks)
        return self.height - BOTTOM - (LINE if two else 0)

    def across(self, value: float) -> str:
        """A value of the x axis as an SVG length."""
        return percent(self.x.share(value))

    def down(self, value: float) -> float:
        """A value of the y axis as a coordinate."""
        return self.floor - self.y.share(value) * (self.floor - TOP)


def percent(share: float) -> str:
    """A share of the width as an SVG length."""
    return f"{trim(100 * share, 3)}%"


def figure_svg(key: str, title: str, summary: str, height: float, drawing: Markup) -> Markup:
    """A chart that fills the width of its block. Title and summary are what a screen reader says."""
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", summary, id=f"{key}-desc"),
        drawing,
        id=key,
        class_="chart",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        width="100%",
        height=height,
    )


def axes(frame: Frame) -> Markup:
    """Grid lines, tick labels and axis titles."""
    floor = frame.floor
    parts = []
    for value, label in frame.y.ticks:
        at = frame.down(value)
        parts.append(element("line", class_="grid", x1="0", x2="100%", y1=at, y2=at))
        parts.append(element("text", label, class_="tick", x=-8, y=at + 4, text_anchor="end"))
    parts.append(element("line", class_="axis", x1="0", x2="100%", y1=floor, y2=floor))
    for value, label in frame.x.ticks:
        at_x = frame.across(value)
        parts.append(element("line", class_="axis", x1=at_x, x2=at_x, y1=floor, y2=floor + 5))
        for number, line in enumerate(label.split("\n")):
            y = floor + 19 + number * LINE
            parts.append(element("text", line, class_="tick", x=at_x, y=y, text_anchor="middle"))
    parts.append(element("text", frame.y_title, class_="axis-title", x="0", y=12))
    parts.append(element("text", frame.x_title, class_="axis-title", x="100%", y=frame.height - 5, text_anchor="end"))
    return join(parts)


def marker(style: int, x: str, y: float, tip: str = "") -> Markup:
    """The marker of a series at a point, with a generous area that shows the tip."""
    return element(
        "svg",
        element("title", tip) if tip else None,
        element("circle", class_="touch", r=11) if tip else None,
        element("path", class_=f"marker s{style % STYLES}", d=MARKERS[style % len(MARKERS)]),
        class_="at",
        x=x,
        y=y,
        width=1,
        height=1,
        overflow="visible",
    )


def curve(series: Series, frame: Frame) -> Markup:
    """The line of a series and, where points average several values, the band these cover.

    It is drawn in a viewport of its own that stretches with the width; strokes keep their thickness.
    """

    def at(x: float, y: float) -> str:
        return f"{trim(SPAN * frame.x.share(x))},{trim(frame.down(y))}"

    style = series.style % STYLES
    band = None
    if any(point.spread for point in series.points):
        spreads = [(point.x, point.spread or (point.y, point.y)) for point in series.points]
        rim = [at(x, high) for x, (_, high) in spreads] + [at(x, low) for x, (low, _) in reversed(spreads)]
        band = element("path", class_=f"band s{style}", d="M" + "L".join(rim) + "z")
    return element(
        "svg",
        band,
        element("polyline", class_=f"curve s{style}", points=" ".join(at(point.x, point.y) for point in series.points)),
        width="100%",
        height=frame.height,
        viewBox=f"0 0 {SPAN} {trim(frame.height)}",
        preserveAspectRatio="none",
        overflow="visible",
    )


def spread_labels(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions near the wanted ones, in the same order of size, at least `gap` apart."""
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    placed = [0.0] * len(wanted)
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        # Neighbours that would touch form one block, centred on the mean of what its members want.
        while True:
            for group in groups[-2:]:
                middle = sum(wanted[member] for member in group) / len(group)
                for rank, member in enumerate(group):
                    placed[member] = middle + (rank - (len(group) - 1) / 2) * gap
            if len(groups) < 2 or placed[groups[-1][0]] - placed[groups[-2][-1]] >= gap - 1e-9:
                break
            groups[-2:] = [groups[-2] + groups[-1]]
    return placed


def line_chart(series: Sequence[Series], frame: Frame) -> Markup:
    """Curves and levels over common axes."""
    parts = [axes(frame)]
    levels = [one for one in series if one.level]
    heights = [frame.down(one.points[0].y) for one in levels]
    for one, at in zip(levels, heights, strict=True):
        tip = element("title", one.points[0].tip or one.name)
        parts.append(element("line", tip, class_=f"curve s{one.style % STYLES}", x1="0", x2="100%", y1=at, y2=at))
    curves = [one for one in series if not one.level]
    for one in reversed(curves):  # the first series lies on top
        if len(one.points) > 1:
            parts.append(curve(one, frame))
        for point in one.points if one.markers or len(one.points) == 1 else ():
            parts.append(marker(one.style, frame.across(point.x), frame.down(point.y), point.tip))
    parts += level_labels(levels, curves, frame)
    parts += [label for one in curves if one.labels for label in value_labels(one, curves, frame)]
    return join(parts)


def level_labels(levels: Sequence[Series], curves: Sequence[Series], frame: Frame) -> list[Markup]:
    """Names and values of levels, each at the end of its line where the curves are farther away."""
    points = [(frame.x.share(point.x), frame.down(point.y)) for curve in curves for point in curve.points]
    ends: dict[str, list[Series]] = {"start": [], "end": []}
    for one in levels:
        height = frame.down(one.points[0].y)
        left = min((abs(y - height) for x, y in points if x < 1 / 3), default=frame.height)
        right = min((abs(y - height) for x, y in points if x > 2 / 3), default=frame.height)
        ends["end" if right >= left else "start"].append(one)
    labels = []
    for anchor, ones in ends.items():
        places = spread_labels([frame.down(one.points[0].y) - 6 for one in ones], LINE)
        for one, y in zip(ones, places, strict=True):
            # a long name would run into the curves; the legend has it too
            text = f"{one.name if len(one.name) <= LEVEL_NAME else ''} {one.points[0].y:.1f}".strip()
            x = "0" if anchor == "start" else "100%"
            labels.append(element("text", text, class_=f"level s{one.style % STYLES}", x=x, y=y, text_anchor=anchor))
    return labels


def value_labels(series: Series, curves: Sequence[Series], frame: Frame) -> list[Markup]:
    """The values of a series at the ticks, above its points, or below where another curve runs close above."""
    labelled = {value for value, _ in frame.x.ticks}  # ticks have been thinned so that labels do not touch
    labels = []
    for point in series.points:
        if point.x not in labelled:
            continue
        at = frame.down(point.y)
        others = [
            frame.down(other.y) for one in curves if one is not series for other in one.points if other.x == point.x
        ]
        y = at + 20 if any(at - 28 < other < at - 6 for other in others) else at - 11
        x = frame.across(point.x)
        labels.append(element("text", f"{point.y:.1f}", class_="value", x=x, y=y, text_anchor="middle"))
    return labels


def bar_chart(bars: Sequence[Bar], whole: float) -> Markup:
    """Labelled horizontal bars below each other, `whole` being the full width. Height: `ROW` for each bar."""
    parts = []
    for index, bar in enumerate(bars):
        top = index * ROW
        start, end = (percent(min(max(edge / whole, 0.0), 1.0)) for edge in (bar.start, bar.end))
        width = percent(min(max((bar.end - bar.start) / whole, 0.0), 1.0))
        at = {"y": top + 23, "height": BAR, "rx": 2}
        edge = None
        if bar.kind in ("lost", "doubtful"):  # a loss of few rows must be seen too
            edge = element("line", class_=f"edge {bar.kind}", x1=end, x2=end, y1=top + 23, y2=top + 23 + BAR)
        label = {"x": 14 if bar.inset else 0, "y": top + 16}
        parts.append(
            element(
                "g",
                element("title", bar.tip or f"{bar.label}: {bar.value}"),
                element("text", bar.label, class_=f"bar-label {bar.kind}", **label),
                element("text", bar.value, class_=f"bar-value {bar.kind}", x="100%", y=top + 16, text_anchor="end"),
                element("rect", class_="track", x="0", width="100%", **at),
                element("rect", class_=f"bar {bar.kind}", x=start, width=width, **at),
                edge,
            )
        )
    return join(parts)


def histogram(bins: Sequence[Bin], threshold: float | None, frame: Frame) -> Markup:
    """Bars of a histogram; the threshold is marked, and the bars below it, whose rows were dropped, are set apart."""
    parts = [axes(frame)]
    for one in bins:
        if not one.rows:
            continue
        top = frame.down(one.rows)
        below = threshold is not None and one.high <= threshold + 1e-9
        parts.append(
            element(
                "rect",
                element("title", f"{one.low:.2f} to {one.high:.2f}: {one.rows:,} rows"),
                class_="bin lost" if below else "bin kept",
                x=frame.across(one.low),
                y=top,
                width=percent(frame.x.share(one.high) - frame.x.share(one.low)),
                height=frame.floor - top,
            )
        )
    if threshold is not None and frame.x.low <= threshold <= frame.x.high:
        at = frame.across(threshold)
        left = frame.x.share(threshold) > 0.55
        parts.append(element("line", class_="threshold", x1=at, x2=at, y1=TOP - 8, y2=frame.floor))
        parts.append(
            element("text", f"threshold {trim(threshold, 3)}", class_="threshold-label", x=at, y=TOP + 2,
                    dx=-6 if left else 6, text_anchor="end" if left else "start")
        )  # fmt: skip
    return join(parts)
