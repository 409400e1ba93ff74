"""Calibrations as one self-contained HTML page: both distributions of each teacher, and the proposed cut."""

from __future__ import annotations

import html
from collections.abc import Sequence

from components.calibrate.calibration import BINS, Calibration, Cut

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 34, 40
STYLE = """
:root{--page:#f6f7f8;--card:#fff;--ink:#1a1f26;--muted:#59636e;--line:#dfe3e8;--true:#0b62a8;--shuffled:#c2500a}
@media (prefers-color-scheme:dark){:root{--page:#111315;--card:#191c20;--ink:#e9ecef;--muted:#a3adb8;--line:#30363d;
--true:#62b0f0;--shuffled:#f08a4b}}
body{margin:0;padding:24px;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Noto Sans","Noto Sans CJK SC",Arial,sans-serif}
main{max-width:760px;margin:auto}h1{font-size:22px;margin:0 0 4px}h2{font-size:17px;margin:0;overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:16px 20px;margin:16px 0}
p{margin:4px 0;color:var(--muted)}svg{width:100%;height:auto;display:block;margin:8px 0}
svg text{font:12px system-ui,sans-serif;fill:var(--muted)}.grid{stroke:var(--line)}
.true{fill:var(--true);stroke:var(--true)}.shuffled{fill:var(--shuffled);stroke:var(--shuffled)}
.true,.shuffled{fill-opacity:.22;stroke-width:2}.shuffled{stroke-dasharray:6 3}
svg text.label-true{fill:var(--true)}svg text.label-shuffled{fill:var(--shuffled)}svg text.cut{fill:var(--ink)}
line.cut{stroke:var(--ink);stroke-width:1.5}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:2px 18px 2px 0}th{font-weight:600;color:var(--muted)}tr.chosen{font-weight:600}
pre{margin:8px 0 0;overflow-x:auto}
"""


def page(calibrations: Sequence[tuple[Calibration, Cut, Sequence[Cut]]], paste: str) -> str:
    """The page: for each teacher its calibration, the proposed cut and a table of cuts; then the lines to paste."""
    sections = "".join(_section(*each) for each in calibrations)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Calibration of teachers</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>Calibration of teachers</h1>"
        "<p>Cosines of true retrieval pairs, and of the same queries with another pair's passage.</p>"
        f"{sections}<section><h2>params.yaml</h2><pre>{html.escape(paste)}</pre></section></main></body></html>\n"
    )


def _section(calibration: Calibration, chosen: Cut, cuts: Sequence[Cut]) -> str:
    rows = "".join(
        f"<tr{' class=chosen' if cut == chosen else ''}><td>{cut.threshold:.2f}</td><td>{cut.kept_true:.1%}</td>"
        f"<td>{cut.kept_shuffled:.1%}</td></tr>"
        for cut in cuts
    )
    return (
        f"<section><h2>{html.escape(calibration.teacher)}</h2><p>{len(calibration.true):,} true and "
        f"{len(calibration.shuffled):,} shuffled pairs ({', '.join(calibration.languages)}); a true pair scores above "
        f"a shuffled one with probability {calibration.separation():.3f}</p>{_drawing(calibration, chosen)}"
        f"<table><tr><th>threshold</th><th>true kept</th><th>shuffled kept</th></tr>{rows}</table></section>"
    )


def _drawing(calibration: Calibration, chosen: Cut) -> str:
    bins = list(calibration.bins())
    low, high = bins[0][0], bins[-1][0] + 1 / BINS
    top = max(max(true, shuffled) for _, true, shuffled in bins)

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share / top * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tenth in range(round(low * 10), round(high * 10) + 1):
        place = x(tenth / 10)
        if LEFT - 1 <= place <= WIDTH - RIGHT + 1:
            parts.append(f'<line class="grid" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
            parts.append(
                f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tenth / 10:.1f}</text>'
            )
    for share in (0, top / 2, top):
        parts.append(f'<text x="{LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for name, column in (("shuffled", 2), ("true", 1)):
        steps = "".join(f"V{y(each[column]):.1f}H{x(each[0] + 1 / BINS):.1f}" for each in bins)
        parts.append(f'<path class="{name}" d="M{x(low):.1f} {y(0):.1f}{steps}V{y(0):.1f}Z"/>')
    cut = x(min(max(chosen.threshold, low), high))
    anchor, shift = ("end", -6) if cut > WIDTH * 0.7 else ("start", 6)
    parts.append(f'<line class="cut" x1="{cut:.1f}" x2="{cut:.1f}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}"/>')
    said = f"{chosen.threshold:.2f} keeps {chosen.kept_true:.1%} of true, {chosen.kept_shuffled:.1%} of shuffled pairs"
    parts.append(f'<text class="cut" x="{cut + shift:.1f}" y="{TOP - 14}" text-anchor="{anchor}">{said}</text>')
    for name, column in (("true", 1), ("shuffled", 2)):
        peak = max(bins, key=lambda each: each[column])
        at = min(max(x(peak[0] + 0.5 / BINS), LEFT + 30), WIDTH - RIGHT - 30)
        parts.append(
            f'<text class="label-{name}" x="{at:.1f}" y="{y(peak[column]) - 5:.1f}" text-anchor="middle">{name}</text>'
        )
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">cosine</text>')
    label = f"Cosines of true and shuffled pairs under {html.escape(calibration.teacher)}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
