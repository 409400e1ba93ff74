"""The table of scores that people read: every system beside the others, task by task, and dimension by dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MODEL = "model"
NAMES = {"ndcg_at_10": "nDCG@10", "spearman": "Spearman × 100"}
GAP = "–"


def table(metrics: Mapping[str, Any]) -> str:
    """The contents of `reports/evaluate/metrics.json` as text for a terminal.

    A line for each system at each of its dimensions, the model first, a column for each task; a dash where a system
    has no part in a task.
    """
    tasks: Mapping[str, str] = metrics["tasks"]
    lines = [["system", "dims", "bytes", *tasks]]
    lines.append(["", "", "", *(NAMES.get(metric, metric) for metric in tasks.values())])
    systems: Mapping[str, Mapping[str, Mapping[str, float]]] = metrics["systems"]
    for system in sorted(systems, key=lambda name: (name != MODEL, name != "pretrained", name)):
        by_task = systems[system]
        dims = sorted({int(dim) for values in by_task.values() for dim in values}, reverse=True)
        for row, dim in enumerate(dims):
            cells = [by_task.get(task, {}).get(str(dim)) for task in tasks]
            values = [GAP if value is None else f"{value:.2f}" for value in cells]
            lines.append([system if row == 0 else "", str(dim or GAP), str(4 * dim or GAP), *values])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    text = [_aligned(line, widths) for line in lines]
    return "\n".join(
        [*text[:2], rule, *text[2:], rule, f"score {metrics['score']:.2f}: mean over tasks, full dimension"]
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([first, *rest]).rstrip()
