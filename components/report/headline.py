"""The top of the page: which model, in what state, how good beside what."""

from __future__ import annotations

from components.report.charts import ROW, Bar, bar_chart, figure_svg
from components.report.evidence import Evidence, Registered, main_metric
from components.report.markup import Child, Markup, element, join
from components.report.page import pill
from components.report.quality import MODEL, cuts, full_value, systems, tasks
from components.report.words import count, difference, metric_name, system_name

GATES = {"passed": "good", "failed": "warn", "revoked": "warn"}


def headline(evidence: Evidence) -> Markup:
    """Name and state of the model, its score on the first task beside the other systems, and the facts of the run."""
    registered = evidence.registered
    states = [pill(f"Gate {registered.gate}", GATES.get(registered.gate, ""))]
    if registered.champion_version == registered.version:
        states.insert(0, pill("Champion", "good"))
    else:
        champion = registered.champion_version
        states.append(pill(f"Champion: version {champion}" if champion else "No champion yet"))
    title = element("div", element("h1", f"{registered.name} version {registered.version}"), *states, class_="title")
    card = element("div", *score(evidence), rules(registered), facts(evidence), class_="card headline")
    return join([element("p", "Embedmill report", class_="eyebrow"), title, card])


def rules(registered: Registered) -> Markup | None:
    """The rules of the gate, each with the numbers that it was judged by."""
    if not registered.rules:
        return None
    entries = [
        element(
            "li",
            element(
                "b", "\u2713" if rule.held else "\u2717", class_="good" if rule.held else "warn", aria_hidden="true"
            ),
            element("span", f"{'Held' if rule.held else 'Broken'}: {rule.text}"),
        )
        for rule in registered.rules
    ]
    return element("div", element("h2", "Gate"), element("ul", *entries), class_="rules")


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
    dims = sorted({one.dim for one in evidence.quality if one.system == MODEL and one.dim})
    suite = tasks(evidence.quality)
    entries: list[tuple[str, Child]] = [
        ("Rows trained on", count(evidence.ledgers["score"].rows_out.total())),
        ("Rows held out", count(evidence.heldout_rows)),
        ("Dimensions", f"{dims[0]}\u2013{dims[-1]}" if len(dims) > 1 else str(dims[0]) if dims else "\u2013"),
        (f"Mean of {len(suite)} tasks" if len(suite) > 1 else "Score", f"{evidence.registered.score:.1f}"),
        ("Suite", element("code", evidence.registered.suite_digest[:12])),
        ("Data version", element("code", evidence.registered.data_version[:12])),
    ]
    pairs = (element("div", element("dt", term), element("dd", value)) for term, value in entries)
    return element("dl", *pairs, class_="facts")
