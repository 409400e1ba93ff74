"""Pages made to hang or kill what reads them: each is a reason in the ledger, and the good page beside them is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.manifest import Dataset
from components.core.settings import RunParams
from components.core.sources import IngestParams, PageParams, SourceParams
from components.core.step import Context
from components.core.suite import EvaluateParams
from components.ingest import pipeline as ingest
from components.sources import pipeline as sources

TEXT = "The mill by the river has ground corn for three hundred years, and it does so today. "
PAGES = {
    "deep.html": b"<title>Deep</title>" + b"<div>" * 20_000 + TEXT.encode(),
    "good.html": f"<title>The mill</title><p>{TEXT * 5}</p>".encode(),
    # every closing tag walks up all the open ones: ten thousand million steps
    "slow.html": b"<title>Slow</title>" + b"<span>" * 100_000 + b"</b>" * 100_000,
}


def test_hostile_pages_are_quarantined_and_the_good_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pages").mkdir()
    for name, html in PAGES.items():
        Path("pages", name).write_bytes(html)
    with Path("pages/huge.html").open("wb") as file:
        file.write(b"<title>Huge</title>")
        for _ in range(100):
            file.write(b"<p>" + b"corn " * 200_000)
    source = SourceParams(uri="pages", layout="pages", pages=PageParams(seconds=1))
    params = {"ingest": IngestParams(sources=(source,)), "evaluate": EvaluateParams()}
    listed = {"output": "data/sources.json", "suite": "data/suite.json"}
    sources.run(Context("sources", RunParams(), params, {}, listed))
    outputs = {"output": "data/ingest", "heldout": "data/heldout"}
    ingest.run(Context("ingest", RunParams(workers=1), params, {"sources": "data/sources.json"}, outputs))
    dataset = Dataset.open("data/ingest")
    (record,) = dataset.read().to_pylist()
    assert (record["text"], record["text_pos"]) == ("The mill", (TEXT * 5).strip())
    assert dataset.ledger.as_dict() == {
        "rows_in": {"pages": 4},
        "rows_out": {"pages": 1},
        "dropped": {},
        "quarantined": {"pages": {"page_too_deep": 1, "page_too_large": 1, "page_timeout": 1}},
    }
    details = {row["reason"]: row["detail"] for row in dataset.read_rejected().to_pylist()}
    assert details == {
        "page_too_deep": "pages/deep.html: 20,002 elements inside one another, at most 512",
        "page_too_large": "pages/huge.html: 100,000,319 bytes of HTML, at most 10,000,000 are read",
        "page_timeout": "pages/slow.html: took more than 1 seconds of CPU time",
    }
