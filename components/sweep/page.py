"""A sweep as a page of its own: a figure of the values over one or two axes, and the table beneath it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from components.core.fingerprint import canonical_json
from components.sweep.results import Combination, Results

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#1a1f26;background:#fff}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .75rem;border-bottom:1px solid #dfe3e8;text-align:right}
th:first-child,td:first-child,td:last-child,th:last-child{text-align:left}
tr.best td{font-weight:600;background:#e2f3ea}
text{font:12px system-ui,sans-serif;fill:#1a1f26}
.muted{fill:#59636e}.best-cell{stroke:#c2500a;stroke-width:3;fill:none}
.value{paint-order:stroke;stroke:#fff;stroke-width:4px;stroke-linejoin:round}svg{display:block;margin:1rem 0}
.line{fill:none;stroke:#0b62a8;stroke-width:2}.dot{fill:#0b62a8}.bar{stroke:#0b62a8}.grid{stroke:#dfe3e8}
"""
CELL_WIDTH, CELL_HEIGHT, LEFT, TOP = 96, 44, 150, 28
PLOT_WIDTH, PLOT_HEIGHT = 640, 260
LOW, HIGH = (238, 241, 244), (11, 98, 168)  # colours of the worst and the best value
DARK_FROM = 0.55  # share of the way to HIGH from which white text reads better


def page(results: Results) -> str:
    """The whole page as HTML, without script and without anything from elsewhere."""
    found = f"<p>Best: {escape(results.summary())}.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Sweep</title>'
        f"<style>{STYLE}</style></head><body><h1>Sweep</h1>{found}{figure(results)}{_table(results)}</body></html>\n"
    )


def figure(results: Results) -> str:
    """An SVG: a line over one axis, a heat map over the first two; with more, the best over the others. Else empty."""
    axes = list(results.axes.items())
    if not any(each.mean is not None for each in results.combinations):
        return ""
    if len(axes) == 1:
        return _line(results, *axes[0])
    return _heat_map(results, *axes[:2]) if axes else ""


def _heat_map(results: Results, down: tuple[str, list[Any]], across: tuple[str, list[Any]]) -> str:
    (row_key, row_values), (column_key, column_values) = down, across
    cells = {
        (row, column): results.best({row_key: row_value, column_key: column_value})
        for row, row_value in enumerate(row_values)
        for column, column_value in enumerate(column_values)
    }
    means = [cell.mean for cell in cells.values() if cell is not None and cell.mean is not None]
    low, high = min(means), max(means)
    parts = [_text(LEFT, 14, column_key, "muted")]
    parts += [
        _text(LEFT + (column + 0.5) * CELL_WIDTH, TOP + 12, _label(value), anchor="middle")
        for column, value in enumerate(column_values)
    ]
    top = TOP + 20
    parts.append(_text(0, top - 8, row_key, "muted"))
    best = results.best()
    for row, row_value in enumerate(row_values):
        parts.append(_text(LEFT - 10, top + (row + 0.5) * CELL_HEIGHT + 4, _label(row_value), anchor="end"))
        for column in range(len(column_values)):
            cell, x, y = cells[row, column], LEFT + column * CELL_WIDTH, top + row * CELL_HEIGHT
            if cell is None or cell.mean is None:
                parts.append(_text(x + CELL_WIDTH / 2, y + CELL_HEIGHT / 2 + 4, "failed", "muted", "middle"))
                continue
            share = 1.0 if high == low else (cell.mean - low) / (high - low)
            share = share if results.params.direction == "max" else 1 - share
            parts.append(f'<rect x="{x}" y="{y}" width="{CELL_WIDTH}" height="{CELL_HEIGHT}" fill="{_colour(share)}"/>')
            fill = ' style="fill:#fff"' if share > DARK_FROM else ""
            middle = _text(x + CELL_WIDTH / 2, y + CELL_HEIGHT / 2 + 4, _value(cell), anchor="middle", more=fill)
            parts.append(middle)
            if best is not None and cell.name == best.name:
                parts.append(
                    f'<rect class="best-cell" x="{x + 1.5}" y="{y + 1.5}" width="{CELL_WIDTH - 3}" '
                    f'height="{CELL_HEIGHT - 3}"/>'
                )
    return _svg(LEFT + CELL_WIDTH * len(column_values) + 4, top + CELL_HEIGHT * len(row_values) + 4, parts, results)


def _line(results: Results, key: str, values: list[Any]) -> str:
    points = [(index, each) for index, each in enumerate(results.combinations) if each.mean is not None]
    ends = [each.mean + sign * each.spread for _, each in points if each.mean is not None for sign in (-1, 1)]
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.1 or 1.0
    low, high = low - margin, high + margin
    left, bottom = 60, TOP + PLOT_HEIGHT

    def x(index: int) -> float:
        return round(left + (index + 0.5) * (PLOT_WIDTH - left) / len(values), 1)

    def y(value: float) -> float:
        return round(bottom - (value - low) / (high - low) * PLOT_HEIGHT, 1)

    parts = [_text(left, 14, results.params.metric, "muted")]
    for tick in (low + margin, (low + high) / 2, high - margin):
        parts.append(f'<line class="grid" x1="{left}" x2="{PLOT_WIDTH}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:.2f}", "muted", "end"))
    parts += [_text(x(index), bottom + 18, _label(value), anchor="middle") for index, value in enumerate(values)]
    parts.append(_text((left + PLOT_WIDTH) / 2, bottom + 38, key, "muted", "middle"))
    path = " ".join(f"{x(index)},{y(each.mean)}" for index, each in points if each.mean is not None)
    parts.append(f'<polyline class="line" points="{path}"/>')
    for index, each in points:
        assert each.mean is not None
        parts.append(
            f'<line class="bar" x1="{x(index)}" x2="{x(index)}" y1="{y(each.mean - each.spread)}" '
            f'y2="{y(each.mean + each.spread)}"/><circle class="dot" cx="{x(index)}" cy="{y(each.mean)}" r="4"/>'
        )
        parts.append(_text(x(index), y(each.mean + each.spread) - 9, _value(each), "value", "middle"))
    return _svg(PLOT_WIDTH, bottom + 46, parts, results)


def _table(results: Results) -> str:
    best = results.best()
    head = "".join(f"<th>{escape(name)}</th>" for name in results.columns())
    lines = []
    for outcome, row in zip(results.outcomes, results.rows(), strict=True):
        mark = ' class="best"' if best is not None and outcome.trial.point == best.name else ""
        lines.append(f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _label(value: Any) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def _value(cell: Combination) -> str:
    return f"{cell.mean:.2f}" + (f" ± {cell.spread:.2f}" if cell.seeds > 1 else "")


def _colour(share: float) -> str:
    mixed = (round(low + share * (high - low)) for low, high in zip(LOW, HIGH, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", more: str = "") -> str:
    label = f' class="{kind}"' if kind else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{label}{more}>{escape(words)}</text>'


def _svg(width: float, height: float, parts: Sequence[str], results: Results) -> str:
    title = f"<title>{escape(results.params.metric)} by {escape(', '.join(results.axes))}</title>"
    return f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">{title}{"".join(parts)}</svg>'
