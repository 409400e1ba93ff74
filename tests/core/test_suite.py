"""Suites from BEIR folders, similarity files and held-out records: what is read, refused, and seen by the digest."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from components.core import storage
from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.errors import InputError, UsageError
from components.core.records import REJECTED_SCHEMA, record_table
from components.core.suite import (
    RetrievalTask,
    StsTask,
    SuiteParams,
    load_suite,
    script_language,
    suite_digest,
    suite_texts,
)

CORPUS = [
    {"_id": "d0", "title": "Moon", "text": "It orbits the Earth."},
    {"_id": "d1", "title": "Sun.", "text": "Sun. A star."},
    {"_id": "d2", "title": "", "text": "No title."},
]
QUERIES = [{"_id": "q0", "text": "what orbits"}, {"_id": "q1", "text": "a star"}, {"_id": "q2", "text": "unjudged"}]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq0\td0\t1\nq0\td2\t0\nq2\td2\t0\n"


def jsonl(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    storage.write_bytes(str(tmp_path / "b/corpus.jsonl.gz"), gzip.compress(jsonl(CORPUS)))
    storage.write_bytes(str(tmp_path / "b/queries.jsonl"), jsonl(QUERIES))
    storage.write_bytes(str(tmp_path / "b/qrels/test.tsv"), QRELS.encode())
    return tmp_path / "b"


def load_beir(folder: Path | str, **more: Any) -> RetrievalTask:
    (task,) = load_suite([SuiteParams(name="b", type="beir", uri=str(folder), **more)], None)
    assert isinstance(task, RetrievalTask)
    return task


def load_sts(path: Path, **more: Any) -> StsTask:
    (task,) = load_suite([SuiteParams(name="s", type="sts", uri=str(path), **more)], None)
    assert isinstance(task, StsTask)
    return task


def heldout(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    table = record_table(rows)
    output = ShardOutput(table, REJECTED_SCHEMA.empty_table(), Counter(table["source"].to_pylist()))
    build_dataset(str(folder), "ingest", [ShardTask("00000", "k", None)], lambda task: [output], "f")
    return str(folder)


def pair(query: str, passage: str, source: str = "doc") -> dict[str, Any]:
    return {"task": "retri_contrast", "text": query, "text_pos": passage, "source": source, "lang": "en"}


def graded(left: str, right: str, label: float, source: str = "sts") -> dict[str, Any]:
    return {"task": "cosent", "text": left, "text_pair": right, "label": label, "source": source, "lang": "en"}


def test_beir_joins_titles_and_leaves_out_what_is_judged_zero(beir: Path) -> None:
    task = load_beir(beir)
    assert task.passage_texts == ["Moon It orbits the Earth.", "Sun. A star.", "No title."]
    assert task.query_texts == ["a star", "what orbits"]
    assert task.qrels == [{1: 2.0}, {0: 1.0}]
    assert task.lang == "en"


def test_beir_in_parquet_is_the_same_task(beir: Path, tmp_path: Path) -> None:
    rows = [
        dict(zip(("query-id", "corpus-id", "score"), line.split("\t"), strict=True)) for line in QRELS.split("\n")[1:5]
    ]
    judgements = [{**row, "score": int(row["score"])} for row in rows]
    (tmp_path / "p/qrels").mkdir(parents=True)
    for name, table in (("corpus", CORPUS), ("queries", QUERIES), ("qrels/test", judgements)):
        pq.write_table(pa.Table.from_pylist(table), tmp_path / f"p/{name}.parquet")
    assert load_beir(tmp_path / "p") == load_beir(beir)
    with pytest.raises(InputError, match=r"no qrels/dev\.tsv; split can be: test"):
        load_beir(tmp_path / "p", split="dev")


def test_beir_reads_judgements_in_trec_layout(beir: Path) -> None:
    (beir / "qrels/trec.tsv").write_text("q0\t0\td0\t1\nq1\t0\td1\t1\n")
    assert load_beir(beir, split="trec").qrels == [{0: 1.0}, {1: 1.0}]


def test_beir_names_the_splits_that_there_are(beir: Path) -> None:
    (beir / "qrels/dev.tsv").write_text(QRELS)
    with pytest.raises(InputError, match=r"no qrels/trial\.tsv; split can be: dev, test"):
        load_beir(beir, split="trial")


def test_beir_says_which_file_is_missing(beir: Path) -> None:
    (beir / "queries.jsonl").unlink()
    with pytest.raises(InputError, match=r"no queries\.jsonl"):
        load_beir(beir)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("q9\td0\t1", r"test\.tsv:2: no query 'q9'"),
        ("q0\td9\t1", r"test\.tsv:2: no passage 'd9'"),
        ("q0 d0 1", r"test\.tsv:2: expected query-id"),
        ("q0\td0\t0", "no judgement above zero"),
    ],
)
def test_beir_refuses_bad_judgements_by_line(beir: Path, line: str, complaint: str) -> None:
    (beir / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{line}\n")
    with pytest.raises(InputError, match=complaint):
        load_beir(beir)


def test_beir_refuses_a_passage_twice(beir: Path) -> None:
    storage.write_bytes(str(beir / "corpus.jsonl.gz"), gzip.compress(jsonl([*CORPUS, CORPUS[0]])))
    with pytest.raises(InputError, match=r"corpus\.jsonl\.gz:4: _id 'd0' appears twice"):
        load_beir(beir)


def test_beir_from_s3_is_the_same_task(beir: Path, s3: Any) -> None:
    for path in sorted(beir.rglob("*.*")):
        storage.upload(path, f"{s3.uri}/b/{path.relative_to(beir).as_posix()}")
    assert load_beir(f"{s3.uri}/b") == load_beir(beir)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"text": "x", "text_pair": "y", "label": 1}\n\n{"text": "u", "text_pair": "v", "label": 0.5}\n'),
        (
            "a.jsonl",
            '{"sentence1": "x", "sentence2": "y", "score": 1}\n{"sentence1": "u", "sentence2": "v", "score": 0.5}\n',
        ),
        ("a.csv", '\ufefftext,text_pair,label\nx,y,1\n"u",v,0.5\n'),
        ("a.ndjson", '{"text": "x", "text_pair": "y", "label": 1}\r\n{"text": "u", "text_pair": "v", "label": 0.5}'),
        ("a.tsv", "sentence1\tsentence2\tscore\nx\ty\t1\nu\tv\t.5\n"),
    ],
)
def test_similarity_files_of_every_layout(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert load_sts(tmp_path / name) == StsTask("s", "en", ["x", "u"], ["y", "v"], [1.0, 0.5])


def test_similarity_columns_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "x", "text_pair": "y", "grade": "3"}\n')
    task = load_sts(tmp_path / "a.jsonl", columns={"text": "q", "label": "grade"}, lang="fr")
    assert (task.left, task.labels, task.lang) == (["x"], [3.0], "fr")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"text": "x", "text_pair": "y", "label": "contradiction"}\n', r"a\.jsonl:1: 'label' must be a number"),
        ('{"text": "x", "text_pair": "y", "label": NaN}\n', r"a\.jsonl:1: 'label' must be a number"),
        (
            '{"text": "x", "text_pair": "y", "label": 1}\n{"text": "x", "label": 1}\n',
            r"a\.jsonl:2: 'text_pair' must be text",
        ),
        ("[1]\n", r"a\.jsonl:1: a JSON list, expected an object"),
        ("{\n", r"a\.jsonl:1: not a JSON object"),
        ("", "no rows"),
    ],
)
def test_similarity_files_are_refused_by_row(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(InputError, match=complaint):
        load_sts(tmp_path / "a.jsonl")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    import zstandard

    rows = jsonl([{"text": f"text {row}", "text_pair": "y", "label": row} for row in range(99)])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows)[:-9])
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(rows)[:-9])
    (tmp_path / "a.jsonl").write_bytes(rows[: rows.index(b"\n") + 1] + b"\xff\n")
    (tmp_path / "a.csv").write_text("text,text_pair,label\nx,y\n")
    for name, complaint in (
        ("a.jsonl.gz", r"a\.jsonl\.gz:\d+: the \.gz data ends too early"),
        ("a.jsonl.zst", r"a\.jsonl\.zst:\d+: the \.zst data ends too early"),
        ("a.jsonl", r"a\.jsonl:2: byte 0 of the line is not UTF-8"),
        ("a.csv", r"a\.csv:2: 2 cells, the header has 3"),
        ("absent.jsonl", "no such file"),
    ):
        with pytest.raises(InputError, match=complaint):
            load_sts(tmp_path / name)
    (tmp_path / "whole.jsonl.zst").write_bytes(zstandard.compress(rows[:500]) + zstandard.compress(rows[500:]))
    assert len(load_sts(tmp_path / "whole.jsonl.zst").labels) == 99


def test_heldout_pairs_become_one_corpus_without_repetition(tmp_path: Path) -> None:
    rows = [
        pair("q", "p1"),
        pair("r", "p1"),
        pair("q", "p2"),
        pair("q", "p1"),
        pair("x", "p9", "other"),
        graded("a", "b", 1),
    ]
    (task,) = load_suite([SuiteParams(name="d", type="heldout", source="doc")], heldout(tmp_path / "h", rows))
    assert isinstance(task, RetrievalTask)
    assert (task.query_texts, task.passage_texts) == (["q", "r"], ["p1", "p2"])
    assert task.qrels == [{0: 1.0, 1: 1.0}, {0: 1.0}]


def test_heldout_graded_pairs_become_a_similarity_task(tmp_path: Path) -> None:
    rows = [pair("q", "p1"), graded("a", "b", 0.2), graded("a", "c", 1)]
    (task,) = load_suite([SuiteParams(name="s", type="heldout", source="sts")], heldout(tmp_path / "h", rows))
    assert task == StsTask("s", "en", ["a", "a"], ["b", "c"], [0.2, 1.0])


def test_heldout_without_the_source_says_which_there_are(tmp_path: Path) -> None:
    uri = heldout(tmp_path / "h", [pair("q", "p"), graded("a", "b", 1)])
    with pytest.raises(UsageError, match=r"no records of source 'pydoc\.summary' \(sources in it: doc, sts\)"):
        load_suite([SuiteParams(name="s", type="heldout", source="pydoc.summary")], uri)
    with pytest.raises(UsageError, match="name one source of doc, sts"):
        load_suite([SuiteParams(name="s", type="heldout")], uri)


def test_entries_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for entry in ({"type": "beir"}, {"type": "heldout", "uri": "x"}, {"type": "heldout", "columns": {"txt": "a"}}):
        with pytest.raises(ValidationError):
            SuiteParams.model_validate({"name": "s", **entry})
    entry = SuiteParams(name="s", type="heldout")
    with pytest.raises(UsageError, match="two tasks are named 's'"):
        load_suite([entry, entry], None)


def test_digest_sees_everything_that_decides_a_score() -> None:
    def retrieval(**changes: Any) -> RetrievalTask:
        values: dict[str, Any] = {"name": "t", "lang": "en", "query_texts": ["q"], "passage_texts": ["p", "r"]}
        return RetrievalTask(**{**values, "qrels": [{0: 1.0, 1: 2.0}], **changes})

    changes: list[dict[str, Any]] = [
        {"name": "u"}, {"query_texts": ["Q"]}, {"passage_texts": ["p", "s"]}, {"qrels": [{0: 2.0, 1: 2.0}]},
    ]  # fmt: skip
    digests = {suite_digest([retrieval()]), *(suite_digest([retrieval(**change)]) for change in changes)}
    digests |= {suite_digest([StsTask("t", "en", ["a"], ["b"], [label])]) for label in (0.0, 1.0)}
    assert len(digests) == 7
    assert suite_digest([retrieval(qrels=[{1: 2.0, 0: 1.0}])]) == suite_digest([retrieval()])
    assert suite_texts([retrieval(), StsTask("s", "en", ["q"], ["z"], [1.0])]) == ["q", "p", "r", "z"]


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("read a csv file", "en"),
        ("如何读取 csv 文件", "zh"),
        ("ファイルを読む方法", "ja"),
        ("파일을 읽는 방법", "ko"),
        ("", "en"),
    ],
)
def test_language_by_script(text: str, lang: str) -> None:
    assert script_language([text]) == lang


def test_real_collections_load(shared_data: Path) -> None:
    chinese = load_beir(shared_data / "cmrc2018_retrieval", split="dev")
    assert (len(chinese.query_texts), len(chinese.passage_texts), chinese.lang) == (3219, 1104, "zh")
    answers = load_beir(shared_data / "trecqa_wang")
    assert all(gain > 0 for gains in answers.qrels for gain in gains.values())
    similar = load_sts(shared_data / "zh_train_clean/stsb_zh__dev.jsonl.gz")
    assert (len(similar.labels), max(similar.labels), similar.lang) == (1336, 5.0, "zh")
