from __future__ import annotations

from typing import Any

import pytest

from components.core.errors import UsageError
from components.core.settings import parse_section
from components.core.sources import DEFAULT_SOURCES, IngestParams, SourceParams

JSONL = {"uri": "a.jsonl", "task": "cosent"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{**JSONL, "layout": "msmarco"}], r"ingest\.sources\.0\.layout: .*'piccolo', 'flagembedding'"),
        ([{**JSONL, "layout": "beir"}], r"ingest\.sources\.0: rows of layout beir train retri_contrast, not cosent"),
        (
            [{**JSONL, "layout": "piccolo", "split": "dev"}],
            r"ingest\.sources\.0: split is for layout beir, not piccolo",
        ),
        ([{**JSONL, "root": "data"}], r"ingest\.sources\.0: root is for a meta list \(\.txt or \.list\), and a\.jsonl"),
        ([{**JSONL, "repeat": 0}], r"ingest\.sources\.0\.repeat: .*greater than or equal to 1"),
        ([{**JSONL, "pages": {"max_byte": 1}}], r"sources\.0\.pages\.max_byte: unknown key; did you mean max_bytes\?"),
        ([{"uri": "pydoc:", "stdlib": True, "repeat": 2}], r"a source 'pydoc:' takes no repeat"),
        ([{**JSONL, "packages": ["numpy"]}], r"ingest\.sources\.0: a source of files takes no packages"),
        ([{"uri": "pydoc:"}], r"ingest\.sources\.0: a source 'pydoc:' needs 'packages', 'stdlib: true' or both"),
        ([{"uri": "pydoc:", "stdlib": True, "task": "cosent"}], r"a source 'pydoc:' takes no task"),
        ([{**JSONL, "task": "sts"}], r"ingest\.sources\.0\.task: .*'retri_contrast'"),
        ([{**JSONL, "column": {}}], r"ingest\.sources\.0\.column: unknown key; did you mean columns\?"),
        ([{**JSONL, "columns": {"query": "q"}}], r"ingest\.sources\.0\.columns\.query"),
        ([{**JSONL, "lang": "english"}], r"ingest\.sources\.0\.lang: "),
        ([{**JSONL, "holdout": 1.5}], r"ingest\.sources\.0\.holdout: .*less than 1"),
        ([JSONL, {**JSONL, "uri": "b/a.csv"}], r"ingest: sources 0 and 1 are both named 'a'; give one a name"),
        ([], r"ingest\.sources: .*at least 1"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_with_its_key(entries: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UsageError, match=rf"params\.yaml: .*{message}"):
        parse_section("ingest", IngestParams, {"sources": entries}, "params.yaml")


@pytest.mark.parametrize(
    ("uri", "title"),
    [
        ("../data/atec__train.jsonl.gz", "atec__train"),
        ("corpus/*.parquet", "corpus"),
        ("corpus/**/*.csv", "corpus"),
        ("data/ocnli*.jsonl.gz", "ocnli"),
        ("data/part-[0-9].tsv", "part"),
        ("s3://bucket/some/prefix/", "prefix"),
        ("s3://bucket", "bucket"),
        ("folder/v1.2", "v1.2"),
        ("*.csv", "files"),
        ("语料/训练.jsonl", "训练"),
    ],
)
def test_a_source_is_named_after_its_uri(uri: str, title: str) -> None:
    assert SourceParams(uri=uri, task="cosent").title == title


def test_the_default_is_pydoc_of_known_packages() -> None:
    (source,) = DEFAULT_SOURCES
    assert (source.title, source.stdlib, source.holdout) == ("pydoc", True, 0.08)
    assert list(source.packages) == sorted(set(source.packages))
