from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from components.core import storage
from components.core.errors import InputError
from components.core.settings import RunParams
from components.core.sources import IngestParams, ResolvedSource, SourceParams, read_sources
from components.core.step import Context
from components.core.suite import EvaluateParams
from components.ingest import pipeline as ingest
from components.sources import pipeline

LISTED = "data/sources.json"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b c", "more/d", "more/e"):
        storage.write_bytes(f"sets/{name}.jsonl", b'{"query": "q %s", "pos": "p"}\n' % name.encode())


def resolve(text: str, uri: str = "sets/meta.txt", **entry: Any) -> list[ResolvedSource]:
    storage.write_bytes(uri, text.encode())
    params = {"ingest": IngestParams(sources=(SourceParams(uri=uri, **entry),)), "evaluate": EvaluateParams()}
    pipeline.run(Context("sources", RunParams(), params, {}, {"output": LISTED, "suite": "data/suite.json"}))
    return read_sources(LISTED)


def test_each_line_is_a_source_with_its_count_and_the_keys_of_the_entry() -> None:
    found = resolve("# Piccolo2\na.jsonl 1\n\nb c.jsonl\t3\nmore 2\nmore/d.jsonl 0\n", repeat=2, lang="zh")
    assert [(each.params.uri, each.params.title, each.params.repeat, each.params.lang) for each in found] == [
        ("sets/a.jsonl", "meta.a", 2, "zh"),
        ("sets/b c.jsonl", "meta.bc", 6, "zh"),
        ("sets/more", "meta.more", 4, "zh"),
    ]
    assert [input.uri for input in found[2].inputs] == ["sets/more/d.jsonl", "sets/more/e.jsonl"]


def test_paths_begin_at_the_root_of_the_entry() -> None:
    (found,) = resolve("d.jsonl 1\n", uri="lists/ft.list", root="sets/more")
    assert [input.uri for input in found.inputs] == ["sets/more/d.jsonl"]


def test_rows_carry_the_count_of_their_line() -> None:
    resolve("a.jsonl 1\nmore/d.jsonl 3\n")
    params = {"ingest": IngestParams(sources=(SourceParams(uri="sets/meta.txt"),)), "evaluate": EvaluateParams()}
    outputs = {"output": "data/ingest", "heldout": "data/heldout"}
    ingest.run(Context("ingest", RunParams(workers=1), params, {"sources": LISTED}, outputs))
    rows = ingest.Dataset.open("data/ingest").read(["source", "meta"]).to_pylist()
    assert rows == [{"source": "meta.a", "meta": None}, {"source": "meta.d", "meta": '{"repeat":3}'}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jsonl\n", "sets/meta.txt: line 1: 'a.jsonl', expected the path of a data set and its repeat count"),
        ("a.jsonl 1\na.jsonl two\n", "sets/meta.txt: line 2: 'a.jsonl two', expected the path of a data set and its"),
        ("a.jsonl 0\n", "sets/meta.txt: names no data set; expected lines of a path and its repeat count"),
        ("x.jsonl 1\n", "ingest.sources[0]: sets/meta.txt line 1: sets/x.jsonl: no such file, folder or prefix"),
        ("a.jsonl 1\na.jsonl 2\n", "both named 'meta.a'; a meta list names each data set once, with its count"),
    ],
)
def test_a_line_that_leads_to_nothing_is_named(text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        resolve(text)
