"""Writes the files of an imagined run in the layout that the steps use."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

NASTY = "<script>alert('x')</script> & \"quoted\" \u202e \x00 \ud83d"
DIMS = (32, 64, 128, 256, 512, 768, 1024)
METRICS = {
    "pydoc": ("ndcg_at_10", "recall_at_10"),
    "pydoc_named": ("ndcg_at_10", "recall_at_10"),
    "pydoc_structure": ("spearman",),
}
# Main measure of each system on the three tasks, at its full dimension.
SYSTEMS = {
    "model": (53.1, 61.4, 71.2),
    "pretrained": (51.6, 59.8, 64.0),
    "wordllama": (34.5, 39.0, 58.3),
    "bm25": (44.8, 48.9, None),
}
Reasons = Mapping[str, Mapping[str, int]]


def ledger(rows_in: Mapping[str, int], dropped: Reasons | None = None, quarantined: Reasons | None = None) -> Any:
    """A balanced ledger."""
    dropped, quarantined = dropped or {}, quarantined or {}
    lost = {name: sum(dropped.get(name, {}).values()) + sum(quarantined.get(name, {}).values()) for name in rows_in}
    rows_out = {name: rows - lost[name] for name, rows in rows_in.items()}
    return {"rows_in": dict(rows_in), "rows_out": rows_out, "dropped": dropped, "quarantined": quarantined}


def write_dataset(folder: Path, step: str, rows: Any) -> None:
    """A manifest without shards, which is all that the report reads, save the number of rows."""
    folder.mkdir(parents=True)
    shard = {
        "name": "00000", "task": "00000", "position": 0, "rows": sum(rows["rows_out"].values()), "bytes": 0,
        "sha256": "", "rejected_rows": 0, "rejected_bytes": 0, "rejected_sha256": "", "fingerprint": "", "ledger": rows,
        "stats": {},
    }  # fmt: skip
    manifest = {"format": "embedmill-dataset/2", "step": step, "fingerprint": "f", "shards": [shard], "stats": {}}
    manifest["ledger"] = rows
    (folder / "manifest.json").write_text(json.dumps(manifest))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def write_json(path: Path, value: Any) -> None:
    """A JSON file; a lone surrogate in it is written as an escape."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def quality_rows() -> list[tuple[Any, ...]]:
    """Two retrieval tasks and a similarity task, four systems."""
    rows: list[tuple[Any, ...]] = []
    for index, (task, metrics) in enumerate(METRICS.items()):
        for system, scores in SYSTEMS.items():
            dims: tuple[int, ...] = {"bm25": (0,), "wordllama": (64, 128, 256)}.get(system, DIMS)
            for dim in dims if scores[index] else ():
                value = scores[index] * (1 - 0.5 * math.exp(-dim / 55) if dim else 1)
                for at, metric in enumerate(metrics):
                    rows.append((system, task, dim or "", metric, round(value + 8 * at, 4), 4 * dim or ""))
    return rows


def loss_rows(steps: int) -> list[tuple[Any, ...]]:
    """Three tasks whose losses fall in a wave."""
    rows = []
    for step in range(1, steps + 1):
        task, start = (("cls_contrast", 3.1), ("cosent", 11.0), ("retri_contrast", 6.4))[step % 3]
        loss = start * (0.35 + 0.65 * math.exp(-3 * step / steps)) * (1 + 0.06 * math.sin(step * 2.1))
        rows.append((step, task, round(loss, 6), 0.01))
    return rows


def dev_rows(steps: int) -> list[tuple[Any, ...]]:
    """Two tasks and their mean, best before the end."""
    rows: list[tuple[Any, ...]] = []
    for step in range(50, steps + 1, 50):
        share = step / steps
        values = (60 + 20 * share - 14 * share**3, 70 + 9 * share - 6 * share**2)
        best = int(step == 200)
        rows += [(step, "retrieval", "ndcg_at_10", values[0], best), (step, "similarity", "spearman", values[1], best)]
        rows.append((step, "mean", "mean", sum(values) / 2, best))
    return rows


def hardness_rows(steps: int) -> list[tuple[Any, ...]]:
    """Negatives that become easy and are replaced at every fiftieth step, the last of which had no retrieval."""
    rows: list[tuple[Any, ...]] = []
    for step in range(1, steps):
        hardness = 0.62 - 0.2 * (step % 50) / 50 + 0.02 * math.sin(step)
        rows.append(
            (step, "dynamic", round(0.8 + 0.1 * step / steps, 5), round(hardness, 5), 40 * (step % 50 == 0), 17)
        )
    return [*rows, (steps, "dynamic", "", "", 25, 15.5)]


def example(query: str, passage: str, rank: int | None, *hits: tuple[str, float]) -> dict[str, Any]:
    """An example whose right passage is the first hit when its rank is 1."""
    found = [{"text": text, "score": score, "right": text == passage} for text, score in hits]
    return {"task": "pydoc", "query": query, "passage": passage, "rank": rank, "hits": found}


def examples() -> list[dict[str, Any]]:
    """Hits and misses, one of them hostile, one Chinese, one with a long unbroken word."""
    long = (
        "class configparser.ConfigParser(defaults=None, dict_type=dict)\n\nThe parser. " + "It reads ini files. " * 30
    )
    counting = "统计词频的方法。" * 40
    return [
        example("read a csv file into a table", long, 1, (long, 0.71), ("csv.reader(file)\n\nReturn a reader.", 0.6)),
        example("如何读取一个文件并统计其中的词频？", counting, 1, (counting, 0.82)),
        example(NASTY, "</title></svg>" + NASTY, 37, ("x" * 400, 0.55), ("Return the sum.", 0.41)),
        example(
            "Close the descriptor.", "os.close(fd)\n\nClose fd.", None, ("socket.close()\n\nClose the socket.", 0.66)
        ),
    ]


def version(**changes: Any) -> dict[str, Any]:
    """What `register` writes for a champion."""
    return {
        "name": "embedmill", "version": 3, "gate": "passed", "champion": True, "champion_version": 3, "score": 61.9,
        "suite_digest": "9f3a" * 16, "weights_sha256": "", "data_version": "77c1" * 16, "identity": "", "run_id": "",
        "rules": [
            {"held": True, "text": "pydoc ndcg_at_10 53.10, bm25 44.80, at least as much wanted"},
            {"held": True, "text": "pydoc ndcg_at_10 53.10, champion 52.87, -1.00 wanted"},
        ],
        **changes,
    }  # fmt: skip


def write_datasets(root: Path) -> None:
    """The ledgers of three steps, and the rows held out."""
    sources = {"pydoc.named": 34120, "pydoc.package": 8000, "pydoc.structure": 21000, "pydoc.summary": 34120}
    held_out = {"pydoc.named": 2710, "pydoc.summary": 2710}
    ingest = ledger(sources, {}, {"pydoc.package": {"not_python": 13}})
    named = {"exact_duplicate": 2801, "near_duplicate": 4122, "too_short": 730, "language": 61}
    summary = {
        "exact_duplicate": 3911, "near_duplicate": 5210, "too_short": 1730, "contaminated": 212, "few_letters": 9,
        "repeats": 3, "too_long": 88,
    }  # fmt: skip
    kept = ledger(ingest["rows_out"], {"pydoc.named": named, "pydoc.summary": summary})
    low = {"pydoc.named": {"low_score": 1207}, "pydoc.summary": {"low_score": 3101}}
    steps = {"ingest": ingest, "filter": kept, "score": ledger(kept["rows_out"], low), "heldout": ledger(held_out)}
    for step, rows in steps.items():
        write_dataset(root / step, step, rows)


def write_run(root: Path) -> dict[str, str]:
    """The files of a whole run below `root`; returns the inputs of the step."""
    write_datasets(root / "data")
    reports = root / "reports"
    inputs = {name: root / "data" / name for name in ("ingest", "heldout", "filter", "score")} | {
        "histogram": reports / "score/histogram.csv",
        "pretrain_loss": reports / "pretrain/loss.csv",
        "finetune_loss": reports / "finetune/loss.csv",
        "pretrain_dev": reports / "pretrain/dev.csv",
        "finetune_dev": reports / "finetune/dev.csv",
        "negatives": reports / "finetune/negatives.csv",
        "quality": reports / "evaluate/quality.csv",
        "examples": reports / "evaluate/examples.json",
        "version": reports / "register/version.json",
    }
    bins = [(low / 50, (low + 1) / 50, int(2600 * math.exp(-(((low - 24) / 9) ** 2)))) for low in range(-5, 50)]
    columns = ("teacher", "low", "high", "rows", "threshold")
    write_csv(inputs["histogram"], columns, [("wordllama", *one, 0.14) for one in bins])
    columns = ("step", "task", "loss", "lr")
    write_csv(inputs["pretrain_loss"], columns, [row for row in loss_rows(900) if row[1] == "retri_contrast"])
    write_csv(inputs["finetune_loss"], columns, loss_rows(300))
    columns = ("step", "task", "metric", "value", "best")
    write_csv(inputs["pretrain_dev"], columns, [])
    write_csv(inputs["finetune_dev"], columns, dev_rows(300))
    columns = ("step", "kind", "positive", "negative", "replaced", "left")
    write_csv(inputs["negatives"], columns, hardness_rows(300))
    write_csv(inputs["quality"], ("system", "task", "dim", "metric", "value", "bytes_per_vector"), quality_rows())
    write_json(inputs["examples"], examples())
    write_json(inputs["version"], version())
    return {name: str(path) for name, path in inputs.items()}
