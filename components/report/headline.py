"""The top of the page: which model, in what state, how good beside what."""

from __future__ import annotations

from components.report.charts import ROW, Bar, bar_chart, figure_svg
from components.report.evidence import Evidence, main_metric
from components.report.markup import Child, Markup, element, join
from components.report.page import pill
from components.report.quality import MODEL, cuts, full_value, systems, tasks
from components.report.words import count, difference, metric_name, system_name

GATES = {"passed": "good", "failed": "warn", "revoked": "warn"}


def headline(evidence: Evidence) -> Markup:
    """Name and state of the model, its score on the first task beside the other systems, and the facts of the run."""
    version = evidence.version
    name = f"{version['name']} version {version['version']}" if version.get("version") else "Model, not registered"
    states = []
    if version.get("champion"):
        states.append(pill("Champion", "good"))
    if gate := version.get("gate"):
        states.append(pill(f"Gate {gate}", GATES.get(str(gate), "")))
    title = element("div", element("h1", name), *states, class_="title")
    card = element("div", *score(evidence), facts(evidence), class_="card headline")
    return join([element("p", "Embedmill report", class_="eyebrow"), title, card])


def score(evidence: Evidence) -> tuple[Markup, Markup | None]:
    """The score on the first task in large, and a bar for each system."""
    quality = evidence.quality
    task = next(iter(tasks(quality)), None)
    own = full_value(quality, task, MODEL) if task else None
    if task is None or own is None:
        return element("p", "Nothing was measured, so there is no score to show."), None
    measure = metric_name(main_metric(quality, task))
    measured = [(name, full_value(quality, task, name)) for name in systems(quality) if name != MODEL]
    others = sorted(((name, one.value) for name, one in measured if one), key=lambda pair: -pair[1])
    against = ", ".join(f"{system_name(name)} {difference(own.value - value)}" for name, value in others)
    dims = f", {count(own.dim)} dimensions" if own.dim else ""
    said: list[Child] = [
        element("div", element("b", f"{own.value:.1f}"), element("span", f"{measure} on {task}{dims}"), class_="score"),
        element("p", f"Against {against} points." if others else "No baseline was measured."),
        element("p", cut) if (cut := cuts(quality, task)) else None,
    ]
    bars = [Bar(MODEL, f"{own.value:.1f}", 0, own.value, "strong")]
    bars += [Bar(system_name(name), f"{value:.1f}", 0, value, "plain") for name, value in others]
    summary = f"{measure} on {task}: " + ", ".join(f"{bar.label} {bar.value}" for bar in bars) + "."
    svg = figure_svg("headline", "The model beside the other systems", summary, len(bars) * ROW, bar_chart(bars, 100))
    return element("div", *said), element("figure", svg)


def facts(evidence: Evidence) -> Markup:
    """Numbers that identify the run."""
    suite = str(evidence.metrics.get("suite_digest", ""))
    dims = sorted({one.dim for one in evidence.quality if one.system == MODEL and one.dim})
    entries: list[tuple[str, Child]] = [
        ("Rows trained on", count(evidence.ledgers["score"].rows_out.total())),
        ("Rows held out", count(evidence.heldout_rows)),
        ("Dimensions", f"{dims[0]}\u2013{dims[-1]}" if len(dims) > 1 else str(dims[0]) if dims else "\u2013"),
        ("Tasks in the suite", count(len(tasks(evidence.quality)))),
        ("Suite", element("code", suite[:12]) if suite else "\u2013"),
    ]
    pairs = (element("div", element("dt", term), element("dd", value)) for term, value in entries)
    return element("dl", *pairs, class_="facts")
