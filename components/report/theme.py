"""Colours and style sheets. Series differ by colour, dash and marker, so that none of the three is needed alone."""

from __future__ import annotations

from components.report.charts import STYLES

FONT = (
    'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","Noto Sans CJK SC","PingFang SC",'
    '"Hiragino Sans GB","Microsoft YaHei",Arial,sans-serif'
)
LIGHT = {
    "page": "#f6f7f8", "card": "#ffffff", "ink": "#1a1f26", "muted": "#59636e", "line": "#dfe3e8", "track": "#eef0f3",
    "good": "#0f7048", "good-soft": "#e2f3ea", "warn": "#94510a", "warn-soft": "#fbeedd", "soft": "#eef1f4",
    "shade": "#00000026",
    "s0": "#0b62a8", "s1": "#c2500a", "s2": "#0f7f63", "s3": "#9a4a8b", "s4": "#7d6608", "s5": "#4d545c",
    "s6": "#a5364f",
    "s7": "#5d7127",
}  # fmt: skip
DARK = {
    "page": "#111315", "card": "#191c20", "ink": "#e9ecef", "muted": "#a3adb8", "line": "#30363d", "track": "#262b31",
    "good": "#56c795", "good-soft": "#15301f", "warn": "#eba85c", "warn-soft": "#3a2812", "soft": "#24292f",
    "shade": "#ffffff2e",
    "s0": "#62b0f0", "s1": "#f08a4b", "s2": "#3cc39a", "s3": "#d68ac8", "s4": "#d9bf55", "s5": "#aab3bd",
    "s6": "#f08fa3",
    "s7": "#b1c978",
}  # fmt: skip
DASHES = ("none", "7 4", "2 4", "10 4 2 4", "4 3", "12 5", "1 3", "6 2 1 2")


def variables(colours: dict[str, str]) -> str:
    """Custom properties of one colour scheme."""
    return ";".join(f"--{name}:{value}" for name, value in colours.items())


def series_rules() -> str:
    """The rules that give each series its colour and its dash."""
    rules = ""
    for index in range(STYLES):
        rules += f".curve.s{index}{{stroke:var(--s{index});stroke-dasharray:{DASHES[index]}}}\n"
        rules += f".band.s{index},.marker.s{index},.level.s{index}{{fill:var(--s{index})}}\n"
    return rules


CHART = """
.grid{stroke:var(--line)}
.axis{stroke:var(--muted)}
.tick,.axis-title{fill:var(--muted);font-size:12px;font-variant-numeric:tabular-nums}
.curve{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round;vector-effect:non-scaling-stroke}
.band{fill-opacity:.18}
.marker{stroke:var(--card);stroke-width:1.2}
.touch{fill:transparent}
.level,.value,.threshold-label{font-size:12px;font-weight:600;font-variant-numeric:tabular-nums;
 paint-order:stroke;stroke:var(--card);stroke-width:4px;stroke-linejoin:round}
.value,.threshold-label{fill:var(--ink)}
.threshold{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:5 3}
.bin{stroke:var(--card);stroke-width:1}
.bin.kept{fill:var(--s0)}
.bin.lost{fill:var(--s1)}
.track{fill:var(--track)}
.bar.strong{fill:var(--s0)}
.bar.plain{fill:var(--s5);fill-opacity:.75}
.bar.lost{fill:var(--s1)}
.bar.doubtful{fill:var(--s4)}
.edge{stroke-width:2}
.edge.lost{stroke:var(--s1)}
.edge.doubtful{stroke:var(--s4)}
.bar-label,.bar-value{fill:var(--ink);font-size:13.5px;font-variant-numeric:tabular-nums}
.bar-label.lost,.bar-label.doubtful{fill:var(--muted)}
.bar-label.strong,.bar-value.strong{font-weight:650}
""" + series_rules()

PAGE = (
    f":root{{color-scheme:light dark;{variables(LIGHT)}}}\n"
    f"@media (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}\n"
    f"html{{font:16px/1.55 {FONT};-webkit-text-size-adjust:100%;background:var(--page);color:var(--ink)}}"
    """
*{box-sizing:border-box}
body,h1,h2,h3,p,ul,ol,dl,dd,figure{margin:0}
.sheet{max-width:1120px;margin:0 auto;padding:28px 16px 64px}
h1{font-size:1.75rem;line-height:1.2;letter-spacing:-.015em;overflow-wrap:anywhere}
h2{font-size:1.3rem;line-height:1.25;letter-spacing:-.01em}
h3{font-size:1rem;line-height:1.4}
a{color:var(--s0);text-underline-offset:3px}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--s0);outline-offset:2px;
 border-radius:3px}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.88em;overflow-wrap:anywhere}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 18px 14px;min-width:0}
.note{background:var(--card);border:1px dashed var(--line);border-radius:12px;padding:14px 18px;color:var(--muted);
 overflow-wrap:anywhere}
.pill{display:inline-block;padding:2px 11px;border-radius:99px;font-size:.85rem;font-weight:650;white-space:nowrap;
 background:var(--soft);color:var(--muted)}
.pill.good{background:var(--good-soft);color:var(--good)}
.pill.warn{background:var(--warn-soft);color:var(--warn)}

.eyebrow{font-size:.78rem;font-weight:650;letter-spacing:.08em;text-transform:uppercase;color:var(--muted)}
.title{display:flex;flex-wrap:wrap;gap:8px 14px;align-items:center;margin-top:4px}
.headline{display:grid;gap:16px 40px;grid-template-columns:minmax(0,1fr);margin-top:18px;padding:22px 22px 20px}
@media (min-width:820px){.headline{grid-template-columns:minmax(0,5fr) minmax(0,6fr)}}
.headline p{margin-top:10px}
.score{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 12px}
.score b{font-size:3.5rem;line-height:1.05;letter-spacing:-.03em;font-variant-numeric:tabular-nums;color:var(--s0)}
.score span{color:var(--muted)}
.rules{grid-column:1/-1;border-top:1px solid var(--line);padding-top:14px;font-size:.9rem}
.rules h2{font-size:.8rem;font-weight:400;letter-spacing:0;color:var(--muted);margin-bottom:4px}
.rules ul{list-style:none;padding:0}
.rules li{display:flex;gap:8px;overflow-wrap:anywhere}
.rules .good{color:var(--good)}
.rules .warn{color:var(--warn)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,125px),1fr));gap:12px 24px;
 grid-column:1/-1;border-top:1px solid var(--line);padding-top:16px}
.facts dt{font-size:.8rem;color:var(--muted)}
.facts dd{font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
nav{display:flex;flex-wrap:wrap;gap:0 18px;margin-top:18px;font-size:.93rem}
nav a{padding:6px 0}

section{margin-top:40px;scroll-margin-top:12px}
.lede{color:var(--muted);margin:6px 0 16px;max-width:72ch}
.group{margin:22px 0 12px}
.lede+.group{margin-top:0}
.figures{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr))}
.figures.loose{align-items:start}
.figures+.figures{margin-top:16px}
figcaption{margin-bottom:12px}
figcaption p{font-size:.9rem;color:var(--muted);margin-top:2px}
.plot{padding:0 16px 0 46px}
.plot.bars{padding:0}
.chart{display:block;overflow:visible}
.legend{list-style:none;padding:0;margin:0 0 12px;display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.9rem}
.legend li{display:flex;align-items:center;gap:7px;min-width:0;overflow-wrap:anywhere}
.legend svg{flex:none}
details{margin-top:12px}
summary{cursor:pointer;font-size:.88rem;color:var(--muted);padding:5px 0;width:fit-content}
summary:hover{color:var(--ink)}

/* A shade at the right edge tells that a table goes on; at its end a patch that scrolls along hides the shade. */
.scroll{overflow:auto;max-height:420px;background:linear-gradient(to left,var(--card) 40%,transparent) right/48px 100%
 no-repeat local,linear-gradient(to left,var(--shade),transparent) right/16px 100% no-repeat scroll}
table{border-collapse:collapse;width:100%;font-size:.88rem;line-height:1.4}
th,td{text-align:left;padding:7px 14px 7px 0;border-bottom:1px solid var(--line);vertical-align:top}
td{white-space:nowrap}
thead th{position:sticky;top:0;background:var(--card);font-weight:600;color:var(--muted);vertical-align:bottom}
tbody th{position:sticky;left:0;background:var(--card);font-weight:500;min-width:7em;max-width:15em;
 overflow-wrap:break-word}
th .by{white-space:nowrap}
thead th:first-child{left:0;z-index:1}
.n{text-align:right;font-variant-numeric:tabular-nums}
tr>:last-child{padding-right:2px}
.best{font-weight:700;color:var(--s0)}
.by{font-size:.82rem;font-weight:400;color:var(--muted);font-variant-numeric:tabular-nums}

.examples{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
summary+.examples{margin-top:10px}
.example{display:flex;flex-direction:column;gap:10px}
.meta{display:flex;flex-wrap:wrap;gap:6px 10px;align-items:center;font-size:.85rem;color:var(--muted)}
.query{font-weight:600;font-size:1.03rem;overflow-wrap:anywhere;white-space:pre-line}
.hits{list-style:none;padding:0;display:grid;gap:8px}
.hit{border-left:3px solid var(--line);padding:1px 0 1px 11px;min-width:0}
.hit.right{border-left-color:var(--good)}
.hit.right .by{color:var(--good);font-weight:600}
.passage{font-size:.88rem;line-height:1.5;overflow-wrap:anywhere;white-space:pre-line}
footer{margin-top:48px;padding-top:16px;border-top:1px solid var(--line);font-size:.85rem;color:var(--muted)}
@media print{.sheet{max-width:none}.card{break-inside:avoid}nav{display:none}}
"""
) + CHART

PICTURE = (
    f"svg{{{variables(LIGHT)}}}\n@media (prefers-color-scheme:dark){{svg{{{variables(DARK)}}}}}\n"
    f"text{{font-family:{FONT}}}"
    """
.backdrop{fill:var(--card);stroke:var(--line)}
.heading{fill:var(--ink);font-size:19px;font-weight:650}
.key{fill:var(--ink);font-size:13px}
"""
) + CHART
