"""Every layout is told from its columns, or read as it is named."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.carriers import Fault
from components.core.errors import InputError
from components.core.sources import SourceParams
from components.core.storage import write_bytes
from components.ingest.columns import ColumnMap
from tests.ingest.conftest import Ingest, json_lines

Row = dict[str, Any]


def read(row: Row, **entry: Any) -> list[Row]:
    """The records of a row, without task-independent fields, empty ones left out."""
    found = ColumnMap(SourceParams.model_validate({"uri": "x.jsonl", **entry})).records(row)
    assert not isinstance(found, Fault), found
    return [{key: value for key, value in each.items() if value is not None and key != "source"} for each in found]


def refused(row: Row, **entry: Any) -> Fault:
    found = ColumnMap(SourceParams.model_validate({"uri": "x.jsonl", **entry})).records(row)
    assert isinstance(found, Fault), found
    return found


def pair(text: str, text_pos: str, **more: Any) -> Row:
    return {"task": "retri_contrast", "text": text, "text_pos": text_pos, **more}


def graded(text: str, text_pair: str, label: float) -> Row:
    return {"task": "cosent", "text": text, "text_pair": text_pair, "label": label}


def classed(text: str, text_pos: str, **more: Any) -> Row:
    return {"task": "cls_contrast", "text": text, "text_pos": text_pos, **more}


CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("row", "records"),
    [
        # Piccolo2: the row's type says the task
        ({"text": "q", "text_pos": "p", "text_neg": ["n"], "type": "retri_contrast"}, [pair("q", "p", text_neg=["n"])]),
        ({"text": "q", "text_pos": "c", "text_neg": "d", "type": "cls_contrast"}, [classed("q", "c", text_neg=["d"])]),
        ({"text": "a", "text_pair": "b", "label": 1, "type": "cosent"}, [graded("a", "b", 1.0)]),
        # one file of all three, as Parquet gives it: every column in each row
        (
            {"text": "a", "text_pos": None, "text_neg": None, "text_pair": "b", "label": 0, "type": "cosent"},
            [graded("a", "b", 0.0)],
        ),
        # FlagEmbedding: several positives, prompts and teacher scores
        (
            {
                "query": "q",
                "pos": ["p", "r"],
                "neg": ["n"],
                "pos_scores": [0.9, 0.8],
                "neg_scores": [0.1],
                "prompt": "Find:",
                "type": "normal",
            },
            [
                pair(
                    "q",
                    text,
                    text_neg=["n"],
                    meta={"prompt": "Find:", "type": "normal", "pos_score": score, "neg_scores": [0.1]},
                )
                for text, score in (("p", 0.9), ("r", 0.8))
            ],
        ),
        (
            {"query": "q", "pos": ["c"], "neg": ["d"], "type": "symmetric_class", "pos_scores": None},
            [classed("q", "c", text_neg=["d"], meta={"type": "symmetric_class"})],
        ),
        ({"query": "q", "pos": ["p"], "neg": []}, [pair("q", "p")]),
        # sentence-transformers: pairs, triplets, n-tuples, scored pairs
        ({"anchor": "q", "positive": "p"}, [pair("q", "p")]),
        ({"question": "q", "answer": "p"}, [pair("q", "p")]),
        ({"anchor": "q", "positive": "p", "negative": "n"}, [pair("q", "p", text_neg=["n"])]),
        (
            {"query": "q", "positive": "p", "negative_1": "n", "negative_2": "m", "negative_10": "o"},
            [pair("q", "p", text_neg=["n", "m", "o"])],
        ),
        ({"sentence1": "a", "sentence2": "b", "score": "0.5"}, [graded("a", "b", 0.5)]),
        ({"sentence_A": "a", "sentence_B": "b", "relatedness_score": 4.5}, [graded("a", "b", 4.5)]),
        ({"question": "a", "answer": "b", "label": 0}, [graded("a", "b", 0.0)]),
        # classification
        ({"text": "t", "label": 3}, [classed("t", "3")]),
        ({"text": "t", "label": 3, "label_text": "card lost"}, [classed("t", "card lost")]),
        # chats
        ({"messages": CHAT}, [pair("q", "a")]),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [pair("q", "a")]),
        ({"prompt": "q", "response": "a"}, [pair("q", "a")]),
        ({"instruction": "Add.", "input": "1 and 2", "output": "3"}, [pair("Add.\n1 and 2", "3")]),
        ({"instruction": "Add.", "input": "", "output": "3"}, [pair("Add.", "3")]),
        # documents
        ({"title": "t", "content": "c", "url": "u"}, [pair("t", "c", url="u")]),
        ({"_id": "d1", "title": "t", "text": "c"}, [pair("t", "c")]),
        ({"text": "# Title\n\nFirst.\nSecond."}, [pair("Title", "First.\nSecond.")]),
    ],
)  # fmt: skip
def test_a_layout_is_told_from_its_columns(row: Row, records: list[Row]) -> None:
    assert read(row) == records
    header = ColumnMap(SourceParams(uri="x.csv")).missing(list(row))
    assert header is None


@pytest.mark.parametrize(
    ("layout", "row", "records"),
    [
        ("sentence_transformers", {"claim": "q", "evidence": "p"}, [pair("q", "p")]),
        ("sentence_transformers", {"id": 1, "claim": "q", "a": "p", "b": "n"}, [pair("q", "p", text_neg=["n"])]),
        ("sentence_transformers", {"left": "a", "right": "b", "score": 0.5}, [graded("a", "b", 0.5)]),
        ("documents", {"text": "Title\nText", "views": 3}, [pair("Title", "Text")]),
        ("chat", {"prompt": "q", "completion": "a"}, [pair("q", "a")]),
    ],
)
def test_a_named_layout_is_read_as_such(layout: str, row: Row, records: list[Row]) -> None:
    assert read(row, layout=layout) == records
    assert ColumnMap(SourceParams.model_validate({"uri": "x.csv", "layout": layout})).missing(list(row)) is None


@pytest.mark.parametrize(
    ("entry", "row", "reason", "detail"),
    [
        ({}, {"q": 1}, "missing_column", "columns fit no layout; columns found: q; wanted those of a layout (text and"),
        ({}, {"text": "a b", "kind": "x"}, "missing_column", "columns fit no layout; columns found: kind, text (name"),
        (
            {"layout": "flagembedding"},
            {"query": "q", "positive": "p"},
            "missing_column",
            "no column 'pos' for text_pos of layout flagembedding; columns found: positive, query",
        ),
        ({"layout": "pages"}, {"page": "<p>"}, "missing_column", "no column 'html' for html of layout pages"),
        ({"layout": "piccolo"}, {"text": "q", "text_pos": "p", "type": "retri"}, "wrong_type", "type is 'retri', exp"),
        ({"task": "cosent"}, {"text": "q", "text_pos": "p", "type": "retri_contrast"}, "missing_column", "'text_pair'"),
        (
            {"task": "cls_contrast"},
            {"text": "q", "text_pos": "p", "type": "retri_contrast"},
            "wrong_type",
            "type is 'retri_contrast', expected cls_contrast",
        ),
        ({}, {"query": "q", "pos": ["p"], "pos_scores": [1, 2]}, "bad_scores", "pos_scores is [1, 2], expected 1 num"),
        ({}, {"query": "q", "pos": ["p"], "neg": ["n"], "neg_scores": ["x"]}, "bad_scores", "expected 1 numbers"),
        ({}, {"query": "q", "pos": ["p"], "neg": ["\u200b"], "neg_scores": [1]}, "empty_text", "without a visible"),
        ({}, {"messages": CHAT[:2]}, "no_exchange", "no user message with an answer among the roles system, user"),
        ({}, {"messages": "hello"}, "no_exchange", "expected a list of messages"),
        ({}, {"messages": [*CHAT[:2], {"role": "assistant", "content": None}]}, "empty_text", "text_pos is empty"),
        ({}, {"title": "", "text": "c"}, "no_title", "the document has no title"),
        ({}, {"text": "one line only"}, "no_title", "the document has no title"),
        ({}, {"title": "t", "text": None}, "no_text", "the document has no text"),
        ({"columns": {"text_pos": "reply"}}, {"query": "q", "pos": "p"}, "missing_column", "no column 'reply' for "),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_says_what_was_found_and_wanted(entry: Row, row: Row, reason: str, detail: str) -> None:
    fault = refused(row, **entry)
    assert fault.reason == reason
    assert detail in fault.detail
    assert "\n" not in fault.detail
    assert fault.kind == ("dropped" if reason in ("no_title", "no_text") else "quarantined")


def test_only_the_first_exchange_of_a_chat_is_taken() -> None:
    turns = [
        {"role": "assistant", "content": "Welcome!"},
        {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image_url"}]},
        {"role": "user", "content": "really"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "and then?"},
        {"role": "assistant", "content": "b"},
    ]
    assert read({"messages": turns}) == [pair("q\n\nreally", "a")]


def test_named_columns_go_before_those_of_a_layout() -> None:
    row = {"question": "q", "answer": "no", "reply": "yes", "wrong": ["n"]}
    assert read(row, columns={"text_pos": "reply", "text_neg": "wrong"}) == [pair("q", "yes", text_neg=["n"])]
    assert read({"chat": CHAT}, columns={"messages": "chat"}) == [pair("q", "a")]


def test_the_repeat_count_of_a_source_is_in_its_records() -> None:
    row = {"query": "q", "pos": ["p"], "prompt": "Find:"}
    assert read(row, repeat=3) == [pair("q", "p", meta={"repeat": 3, "prompt": "Find:"})]
    assert read({"text": "t", "label": "c"}, repeat=2) == [classed("t", "c", meta={"repeat": 2})]


def test_every_example_of_flagembedding_and_piccolo_is_read(ingest: Ingest, shared_data: Path) -> None:
    files = sorted((shared_data / "flagembedding_toy").glob("*.jsonl.gz"))
    assert len(files) == 10
    entries = [{"uri": str(path), "name": path.name.split(".")[0]} for path in files]
    piccolo = {"uri": f"{shared_data}/piccolo_example/*.jsonl.gz", "name": "piccolo"}
    train, _ = ingest(*entries, piccolo)
    assert not train.ledger.quarantined
    assert not train.ledger.dropped
    records = train.read().to_pylist()
    tasks = Counter((record["source"].split("__")[0], record["task"]) for record in records)
    assert tasks == {
        ("embedder", "retri_contrast"): 40,
        ("embedder", "cls_contrast"): 40,
        ("reranker", "retri_contrast"): 20,
        ("piccolo", "retri_contrast"): 51,
        ("piccolo", "cls_contrast"): 51,
        ("piccolo", "cosent"): 51,
    }
    scored = [record for record in records if record["source"].endswith("__nq")]
    for record in scored:
        meta = json.loads(record["meta"])
        assert len(meta["neg_scores"]) == len(record["text_neg"]) > 50
        assert isinstance(meta["pos_score"], float)
        assert meta["prompt"].startswith("Given a question")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("banking77/train", "cls_contrast"),
        ("csl_dcp/dev", "cls_contrast"),
        ("csl_ctg/dev", "cls_contrast"),
        ("thucnews_titles/dev", "cls_contrast"),
        ("en_train_clean/stsb_en__dev", "cosent"),
        ("zh_train_clean/bustm__train_few_all", "cosent"),
        ("zh_train_clean/text2vec_zh_triples__train", "retri_contrast"),
        ("cmrc2018_retrieval/corpus", "retri_contrast"),
    ],
)
def test_real_files_need_neither_task_nor_columns(ingest: Ingest, shared_data: Path, name: str, task: str) -> None:
    path = shared_data / f"{name}.jsonl.gz"
    train, _ = ingest({"uri": str(path), "name": "it"})
    with gzip.open(path) as lines:
        assert train.ledger.rows_in["it"] >= sum(1 for _ in lines)
    assert set(train.read(["task"])["task"].to_pylist()) == {task}
    assert not train.ledger.quarantined


def test_columns_of_parquet_are_taken_by_order_where_that_is_the_layout(ingest: Ingest) -> None:
    Path("rows").mkdir()
    pq.write_table(pa.table({"z": ["q"], "b": ["p"], "a": ["n"], "vector": ["m"]}), "rows/a.parquet")
    train, _ = ingest({"uri": "rows", "layout": "sentence_transformers"})
    (record,) = train.read().to_pylist()
    assert (record["text"], record["text_pos"], record["text_neg"]) == ("q", "p", ["n", "m"])


def test_a_beir_folder_gives_the_judged_pairs_of_a_split(ingest: Ingest) -> None:
    write_bytes("beir/corpus.jsonl", json_lines([{"_id": f"d{n}", "title": "T", "text": f"x{n}"} for n in range(4)]))
    write_bytes("beir/queries.jsonl", json_lines([{"_id": f"q{n}", "text": f"ask {n}"} for n in range(3)]))
    judged = b"query-id\tcorpus-id\tscore\nq0\td0\t1\nq0\td1\t2\nq1\td2\t0\nq1\td9\t1\nq7\td1\t1\nq2\td1\tx\n"
    write_bytes("beir/qrels/train.tsv", judged)
    write_bytes("beir/qrels/test.tsv", b"query-id\tcorpus-id\tscore\nq2\td3\t1\n")
    train, _ = ingest({"uri": "beir", "repeat": 2})
    records = train.read().to_pylist()
    assert [(each["text"], each["text_pos"], each["meta"]) for each in records] == [
        ("ask 0", "T x0", '{"repeat":2}'),
        ("ask 0", "T x1", '{"repeat":2}'),
    ]
    assert train.ledger.dropped == {"beir": {"not_relevant": 1}}
    assert train.ledger.quarantined == {"beir": {"missing_text": 2, "bad_label": 1}}
    details = {row["offset"]: row["detail"] for row in train.read_rejected().to_pylist()}
    assert details[3] == "beir/qrels/train.tsv: no passage 'd9' in corpus.jsonl"
    other, _ = ingest({"uri": "beir", "layout": "beir", "split": "test"})
    assert other.read(["text"])["text"].to_pylist() == ["ask 2"]
    with pytest.raises(InputError, match=r"beir: no qrels/dev\.tsv; split can be: test, train"):
        ingest({"uri": "beir", "split": "dev"})
    with pytest.raises(InputError, match=r"beir/qrels: no corpus\.jsonl; a BEIR folder has corpus\.jsonl, queries\."):
        ingest({"uri": "beir/qrels", "split": "dev"})
    write_bytes("beir/corpus.jsonl", json_lines([{"_id": "d3", "text": "changed"}]))
    changed, _ = ingest({"uri": "beir", "layout": "beir", "split": "test"})
    assert changed.read(["text_pos"])["text_pos"].to_pylist() == ["changed"]


def test_a_real_beir_folder_is_read_to_the_last_judgement(ingest: Ingest, shared_data: Path) -> None:
    train, _ = ingest({"uri": f"{shared_data}/cranfield"}, {"uri": f"{shared_data}/trecqa_wang", "split": "dev"})
    ledger = train.ledger.as_dict()
    assert ledger["rows_in"] == {"cranfield": 1837, "trecqa_wang": 1148}
    assert ledger["quarantined"] == {"cranfield": {"empty_text": 1}}  # the collection has an empty passage
    assert ledger["dropped"] == {"trecqa_wang": {"not_relevant": 926}}
