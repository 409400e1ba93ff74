"""The picture of a README: score by dimension as one SVG file that stands alone."""

from __future__ import annotations

from components.report.charts import MARKERS, STYLES, Series, line_chart
from components.report.evidence import Evidence, main_metric
from components.report.markup import Markup, element, join
from components.report.quality import dimension_frame, dimension_series, tasks
from components.report.theme import PICTURE
from components.report.words import columns_of, metric_name

WIDTH, HEIGHT = 760, 436
LEFT, TOP = 62, 96  # where the plot begins


def picture(evidence: Evidence) -> bytes:
    """The SVG file for the first task of the suite, as UTF-8 bytes; it follows the reader's colour scheme."""
    quality = evidence.quality
    task = next(iter(tasks(quality)), None)
    if task is None:
        heading, drawing, key = "Nothing was measured", Markup(), Markup()
    else:
        series = dimension_series(quality, task)
        heading = f"{metric_name(main_metric(quality, task))} on {task}, by size of the vector"
        frame = dimension_frame(quality, task, series)
        place = {"x": LEFT, "y": TOP, "width": WIDTH - LEFT - 28, "height": frame.height}
        drawing = element("svg", line_chart(series, frame), overflow="visible", **place)
        key = legend(series)
    root = element(
        "svg",
        element("title", heading),
        Markup(f"<style>{PICTURE}</style>"),
        element("rect", class_="backdrop", x=0.5, y=0.5, width=WIDTH - 1, height=HEIGHT - 1, rx=12),
        element("text", heading, class_="heading", x=24, y=40),
        key,
        drawing,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        width=WIDTH,
        height=HEIGHT,
        role="img",
    )
    return f"{root}\n".encode()


def legend(series: list[Series]) -> Markup:
    """Names of the series in one row."""
    parts, x = [], 24.0
    for one in series:
        style = f"s{one.style % STYLES}"
        parts.append(element("line", class_=f"curve {style}", x1=x, x2=x + 28, y1=66, y2=66))
        if not one.level:
            path = MARKERS[one.style % len(MARKERS)]
            parts.append(element("path", class_=f"marker {style}", d=path, transform=f"translate({x + 14:g} 66)"))
        parts.append(element("text", one.name, class_="key", x=x + 36, y=70.5))
        x += 36 + text_width(one.name, 13) + 24
    return join(parts)


def text_width(text: str, size: float) -> float:
    """About how wide a text is in a sans-serif face of this size."""
    return 0.56 * size * columns_of(text)
