"""Main text of news pages against text made by hand: our ingest beside trafilatura."""

from __future__ import annotations

import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import peers, texts
from benchmarks.chain import Project
from benchmarks.measure import Result, Table, interleaved, versions

PAGES = "html_article_en/test.jsonl.gz"
REPEATS = 3
SHINGLE = 4
OURS, PEER = "embedmill ingest (resiliparse)", "trafilatura"


def words(text: str) -> list[str]:
    """The words of a text, lower case."""
    return re.findall(r"\w+", text.lower())


def f1(found: Counter[Any], gold: Counter[Any]) -> tuple[float, float, float]:
    """Precision, recall and F1 of one multiset against another; two empty ones agree."""
    common = (found & gold).total()
    precision = common / found.total() if found else float(not gold)
    recall = common / gold.total() if gold else float(not found)
    return precision, recall, 2 * precision * recall / (precision + recall) if common or not gold + found else 0.0


def shingles(tokens: list[str]) -> Counter[tuple[str, ...]]:
    """Runs of SHINGLE words, as a multiset; a shorter text is one run."""
    return Counter(tuple(tokens[start : start + SHINGLE]) for start in range(max(1, len(tokens) - SHINGLE + 1)))


def evaluate(found: Mapping[str, str], gold: Mapping[str, str]) -> dict[str, float]:
    """Means over the pages of gold: word precision, recall and F1, F1 of word 4-shingles, and pages without text."""
    scores = [f1(Counter(words(found.get(page, ""))), Counter(words(text))) for page, text in gold.items()]
    runs = [f1(shingles(words(found.get(page, ""))), shingles(words(text)))[2] for page, text in gold.items()]
    precision, recall, word_f1 = (statistics.mean(column) for column in zip(*scores, strict=True))
    empty = sum(not found.get(page) for page in gold)
    return {
        "precision": precision,
        "recall": recall,
        "f1": word_f1,
        "shingle_f1": statistics.mean(runs),
        "empty": empty,
    }


def run() -> Result:
    pages = list(texts.rows(PAGES))
    gold = {row["id"]: row["text"] for row in pages}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        project = _project(folder / "project", pages)
        path = peers.write_texts(folder / "pages.jsonl", [row["html"] for row in pages], "html", list(gold))
        with peers.Peer("trafilatura_extraction", path) as peer:
            project.run("ingest")
            seconds = interleaved({OURS: lambda: project.rerun("ingest"), PEER: peer.measure}, REPEATS)
            records = project.dataset("ingest").read()
            ours = dict(zip(records["url"].to_pylist(), records["text_pos"].to_pylist(), strict=True))
            by_tool = {OURS: ours, PEER: peer.value}
    quality = {name: evaluate(found, gold) for name, found in by_tool.items()}
    rows = [[name, *quality[name].values(), len(pages) / seconds[name]] for name in by_tool]
    header = ("", "precision", "recall", "word F1", "F1 of 4-shingles", "pages without text", "pages / CPU-s")
    note = (
        f"{len(pages)} English news pages of html_article_en. Words as multisets (order does not count) and, as the "
        "data set's own benchmark does, runs of four words; means over pages. trafilatura without comments and tables, "
        "which the gold text does not hold. Ours is the ingest step, reading and writing included. "
        f"Median of {REPEATS} interleaved runs."
    )
    values = {name: {**quality[name], "pages_per_second": len(pages) / seconds[name]} for name in by_tool}
    made = versions(("resiliparse",)) | peers.versions("trafilatura")
    return Result("extraction", [Table("Extraction of main text", header, rows, note)], values, made)


def _project(folder: Path, pages: list[dict[str, Any]]) -> Project:
    # a page is known again by its url: here, its id
    sources = [{"uri": "pages.jsonl", "layout": "pages", "lang": "en"}]
    project = Project(folder, {"ingest": {"sources": sources}})
    texts.write_jsonl(folder / "pages.jsonl", ({"url": row["id"], "html": row["html"]} for row in pages))
    project.run("sources")
    return project
