from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from components.core.carriers import Span, read_rows
from components.core.errors import InputError
from components.core.manifest import Dataset
from components.core.settings import RunParams
from components.core.sources import IngestParams, SourceParams
from components.core.step import Context
from components.core.storage import write_bytes
from components.ingest.pipeline import run
from tests.conftest import Embedmill
from tests.fixtures.installed import AddPackage
from tests.fixtures.seaweed import S3Bucket
from tests.ingest.conftest import Ingest, json_lines

PAIRS = [{"query": f"question {i}", "pos": f"answer {i}"} for i in range(40)]


def make_package(name: str, modules: int = 12) -> dict[str, str | bytes]:
    def function(module: int, number: int) -> str:
        return (
            f"def make_{number}(x):\n"
            f'    """Make the {name} object {module} of kind {number}.\n\n'
            f'    Its size is {module} and its kind is {number}.\n    """\n'
        )

    return {
        f"{name}/m{module}.py": "".join(function(module, number) for number in range(5)) for module in range(modules)
    }


def pydoc(**entry: Any) -> dict[str, Any]:
    return {"uri": "pydoc:", "packages": ["alpha", "beta"], "holdout": 0.3, "lang": "en", **entry}


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_pydoc_gives_rows_of_all_three_tasks_and_splits_by_module(ingest: Ingest, site: AddPackage) -> None:
    site("alpha", make_package("alpha"))
    site("beta-lib", make_package("beta"), "2.1")
    train, held = ingest(pydoc(packages=["alpha", "beta-lib"], structure_rows=50, class_rows=30))
    assert train.rows and held.rows
    groups = [{each["group"] for each in map(_meta, data.read().to_pylist())} for data in (train, held)]
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 24
    for data in (train, held):
        counts = Counter(data.read(["source"])["source"].to_pylist())
        assert counts["pydoc.named"] == counts["pydoc.summary"] == data.stats["objects"]
        assert counts["pydoc.structure"] and counts["pydoc.package"]
    rows = [row for row in train.read().to_pylist() if row["source"] == "pydoc.named"]
    first = next(row for row in rows if row["url"] == "pydoc:alpha.m1.make_2")
    assert first["text"] == "alpha m1 make 2. Make the alpha object 1 of kind 2."
    assert first["text_pos"] == "def make_2(x)\nIts size is 1 and its kind is 2."
    assert (first["task"], first["lang"]) == ("retri_contrast", "en")


def test_a_source_file_that_does_not_parse_is_quarantined(ingest: Ingest, site: AddPackage) -> None:
    site(
        "alpha", {**make_package("alpha"), "alpha/bad.py": 'x = 1\ndef f(:\n    """Doc"""\n', "alpha/tests/bad.py": "("}
    )
    train, held = ingest(pydoc(packages=["alpha"], holdout=0.0))
    assert train.ledger.quarantined == {"pydoc": {"not_python": 1}}
    bad = train.read_rejected().to_pylist()[0]
    assert (bad["offset"], bad["detail"]) == (1, "alpha/bad.py: SyntaxError: invalid syntax")
    assert held.rows == 0


def test_bytes_are_the_same_with_any_workers_and_hash_seed(embedmill: Embedmill, tmp_path: Path) -> None:
    write_bytes(str(tmp_path / "rows.jsonl"), json_lines(PAIRS))
    (tmp_path / "params.yaml").write_text(
        "ingest: {sources: ["
        "{uri: 'pydoc:', packages: [click, jinja2], holdout: 0.3, structure_rows: 100, class_rows: 50},"
        "{uri: '*.jsonl', task: retri_contrast, holdout: 0.2}]}"
    )
    found = []
    for workers, seed in (("1", "0"), ("2", "77")):
        for step in ("sources", "ingest"):
            done = embedmill(step, "--set", f"run.workers={workers}", env={"PYTHONHASHSEED": seed})
            assert done.returncode == 0, done.stderr
        found.append(bytes_of(tmp_path / "data"))
        shutil.rmtree(tmp_path / "data")
    assert len(found[0]) > 8
    assert found[0] == found[1]


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_large_files_are_split_into_shards_with_the_same_rows(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("components.ingest.files.SMALL_BYTES", 0)
    lines = json_lines([*PAIRS[:20], ["broken"], *PAIRS[20:]])
    uri = f"rows.jsonl{suffix}"
    write_bytes(uri, gzip.compress(lines) if suffix else lines)
    entry = {"uri": uri, "task": "retri_contrast", "holdout": 0.2}
    whole = ingest(entry)
    tables = [data.read() for data in whole], whole[0].read_rejected()
    assert tables[1]["offset"].to_pylist() == [20]
    monkeypatch.setattr("components.ingest.files.BATCH_ROWS", 3)
    split = ingest(entry, shard_bytes=200)
    assert (len(whole[0].shards), len(whole[1].shards)) == (1, 1)
    assert len(split[0].shards) > 4
    assert [data.read() for data in split] == tables[0]
    assert split[0].read_rejected() == tables[1]


def test_small_files_share_a_shard_and_keep_their_order(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, pair in enumerate(PAIRS):
        write_bytes(f"rows/{number:03d}.jsonl", json_lines([pair, ["broken"]]))
    entry = {"uri": "rows", "task": "retri_contrast"}
    whole, _ = ingest(entry)
    assert len(whole.shards) == 1
    kept, rejected = whole.read(), whole.read_rejected()
    assert kept["text"].to_pylist() == [pair["query"] for pair in PAIRS]
    files = [detail.partition(":")[0] for detail in rejected["detail"].to_pylist()]
    assert files == [f"rows/{number:03d}.jsonl" for number in range(40)]
    monkeypatch.setattr("components.ingest.files.BATCH_ROWS", 3)
    split, _ = ingest(entry, shard_bytes=600)
    assert 8 < len(split.shards) < 30
    assert split.read() == kept
    assert split.read_rejected() == rejected


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.jsonl", "rows"])
def test_a_killed_step_goes_on_in_the_middle_of_a_file(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    lines = json_lines([*PAIRS, *(["broken"] * 3), *PAIRS])
    if name == "rows":
        write_bytes("rows/a.jsonl.gz", gzip.compress(json_lines(PAIRS[:7])))
        write_bytes("rows/b.jsonl", lines)
    else:
        monkeypatch.setattr("components.ingest.files.SMALL_BYTES", 0)
        write_bytes(name, gzip.compress(lines) if name.endswith(".gz") else lines)
    monkeypatch.setattr("components.ingest.files.BATCH_ROWS", 2)
    monkeypatch.setattr("components.ingest.files.split_file", lambda *arguments: [Span()])
    entry = {"uri": name, "task": "retri_contrast"}
    size = {"shard_bytes": 300 if name == "rows" else 150}
    ingest(entry, **size)
    expected = bytes_of(Path("data"))
    shutil.rmtree("data/ingest")

    class Killed(Exception):
        pass

    read: list[int] = []

    def fail_later(*arguments: Any) -> Any:
        for row in read_rows(*arguments):
            read.append(row[0])
            yield row
            if len(read) == 60:
                raise Killed

    monkeypatch.setattr("components.ingest.files.read_rows", fail_later)
    with pytest.raises(Killed):
        ingest(entry, **size)
    finished = len(list(Path("data/ingest/shards").iterdir()))
    assert finished >= 2
    written = {path: path.stat().st_ino for path in Path("data/ingest/shards").iterdir()}
    read.clear()
    read.extend([0] * 100)
    ingest(entry, **size)
    assert bytes_of(Path("data")) == expected
    assert all(path.stat().st_ino == inode for path, inode in written.items())
    assert read[100] > 20, "rows of finished shards were parsed again"


def test_rows_of_files_are_kept_held_out_or_quarantined_and_none_is_lost(ingest: Ingest) -> None:
    lines = json_lines([*PAIRS, {"query": "", "pos": "x"}, ["no object"], {"query": "two", "pos": ["a", "b"]}])
    write_bytes("rows/a.jsonl.gz", gzip.compress(lines))
    write_bytes("rows/b.csv", b"query,pos\nin csv,yes\n")
    write_bytes("rows/README.md", b"what this is")
    train, held = ingest({"uri": "rows", "task": "retri_contrast", "holdout": 0.25})
    assert train.rows + held.rows == 43
    assert 4 < held.rows < 20
    texts = [set(data.read(["text"])["text"].to_pylist()) for data in (train, held)]
    assert not texts[0] & texts[1]
    assert train.ledger.quarantined == {"rows": {"empty_text": 1, "not_object": 1}}
    rejected = {row["offset"]: row["detail"] for row in train.read_rejected().to_pylist()}
    assert rejected == {
        40: "rows/a.jsonl.gz: text is empty, expected a text",
        41: "rows/a.jsonl.gz: a JSON list, expected an object with columns as keys",
    }


def test_a_file_of_a_bucket_is_read_in_parts(ingest: Ingest, s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.ingest.files.SMALL_BYTES", 0)
    write_bytes(f"{s3.uri}/a.jsonl", json_lines([*PAIRS, ["broken"]]))
    train, _ = ingest({"uri": f"{s3.uri}/a.jsonl", "task": "retri_contrast"}, shard_bytes=400)
    assert len(train.shards) > 3
    assert train.read(["text"])["text"].to_pylist() == [pair["query"] for pair in PAIRS]
    assert train.read_rejected()["offset"].to_pylist() == [40]


def test_files_of_a_bucket_are_read(ingest: Ingest, s3: S3Bucket) -> None:
    write_bytes(f"{s3.uri}/corpus/a.jsonl", json_lines(PAIRS[:3]))
    write_bytes(f"{s3.uri}/corpus/b.csv.gz", gzip.compress(b"query,pos\nq,p\n"))
    train, _ = ingest({"uri": f"{s3.uri}/corpus/", "task": "retri_contrast"})
    assert train.read(["text"])["text"].to_pylist() == ["question 0", "question 1", "question 2", "q"]
    assert set(train.read(["source"])["source"].to_pylist()) == {"corpus"}


def test_a_second_run_keeps_finished_shards(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.ingest.files.SMALL_BYTES", 0)
    write_bytes("a.jsonl", json_lines(PAIRS))
    entry = {"uri": "*.jsonl", "name": "x", "task": "retri_contrast"}
    ingest(entry)
    write_bytes("b.jsonl", json_lines([{"query": "new", "pos": "new"}]))
    read: list[str] = []

    def spy(uri: str, *arguments: Any) -> Any:
        read.append(uri)
        return read_rows(uri, *arguments)

    monkeypatch.setattr("components.ingest.files.read_rows", spy)
    train, _ = ingest(entry)
    assert read == ["b.jsonl"]
    assert train.rows == 41


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", r"a.jsonl: source 'a' is empty: not one row \(inputs: 1\)"),
        ("a.csv", b"query,pos\n", r"a.csv: source 'a' is empty"),
        ("a.jsonl", b"{'query': 'x'}\nxx\n", r"most often not_json \(2 of 2\), first in row 0"),
        ("a.jsonl", json_lines([{"q": 1}] * 3 + [5]), r"missing_column \(3 of 4\), .* no column .*columns found: q"),
        ("a.csv", b"query,hit\nq,p\n", r"a.csv: no column 'pos' or 'positive' .*columns found: hit, query"),
        ("a.jsonl.gz", gzip.compress(b"{}", mtime=0)[:12], r"truncated \(1 of 1\), .* a.jsonl.gz: the .gz data"),
        ("a.parquet", b"PAR1 but not really", r"corrupt \(1 of 1\), .*a.parquet: not a readable .parquet file"),
        ("a.json", b'[{"query": "q", "pos": "p"}]', r"json_array \(1 of 1\), .* a.json: the file is one JSON array"),
    ],
)  # fmt: skip
def test_a_source_without_use_stops_the_step(ingest: Ingest, name: str, data: bytes, message: str) -> None:
    write_bytes(name, data)
    with pytest.raises(InputError, match=message) as caught:
        ingest({"uri": name, "task": "retri_contrast"})
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"no manifest\.json"):
        Dataset.open("data/ingest")


def test_an_output_that_cannot_be_written_is_named(ingest: Ingest) -> None:
    write_bytes("a.jsonl", json_lines(PAIRS))
    Path("data").mkdir()
    Path("data/ingest").write_text("a file where a folder is wanted")
    with pytest.raises(InputError, match="data/ingest"):
        ingest({"uri": "a.jsonl", "task": "retri_contrast"})


def test_a_list_made_with_other_parameters_is_refused(ingest: Ingest) -> None:
    write_bytes("a.jsonl", json_lines(PAIRS))
    ingest({"uri": "a.jsonl", "task": "retri_contrast"})
    section = IngestParams(sources=(SourceParams(uri="b.jsonl", task="cosent"),))
    context = Context("ingest", RunParams(), {"ingest": section}, {"sources": "data/sources.json"}, {})
    with pytest.raises(InputError, match=r"does not list the present ingest\.sources; run `embedmill sources`"):
        run(context)


def test_files_of_other_projects_are_read_as_they_are(ingest: Ingest, shared_data: Path) -> None:
    chinese, labels = shared_data / "zh_train_clean", {"entailment": 1, "neutral": 0.5, "contradiction": 0}
    train, _ = ingest(
        {"uri": f"{chinese}/simclue__train_rank_1w.jsonl.gz", "task": "retri_contrast"},
        {"uri": f"{chinese}/ocnli*.jsonl.gz", "task": "cosent", "labels": labels},
        {"uri": f"{shared_data}/flagembedding_toy/*__retrieval__*.jsonl.gz", "name": "flag", "task": "retri_contrast"},
        {"uri": f"{shared_data}/piccolo_example/cls.jsonl.gz", "task": "cls_contrast"},
    )
    ledger = train.ledger
    assert set(ledger.quarantined["ocnli"]) == {"bad_label"}  # "-", where the annotators did not agree
    assert ledger.rows_out["ocnli"] > 9000
    assert set(ledger.quarantined) == {"ocnli"}
    assert ledger.rows_out["simclue__train_rank_1w"] > 9000
    assert ledger.rows_out["flag"] == 30
    assert ledger.rows_out["cls"] > 0


def test_a_wrong_file_ends_the_command_with_one_line_and_code_3(embedmill: Embedmill, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("ingest: {sources: [{uri: none.jsonl, task: cosent}]}")
    done = embedmill("sources")
    assert done.returncode == 3
    assert done.stderr == "embedmill: ingest.sources[0]: none.jsonl: no such file, folder or prefix\n"


def _meta(row: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(row["meta"])
    return value


def test_a_condition_takes_some_rows_and_counts_the_others(ingest: Ingest) -> None:
    graded = [{"text": f"left {n}", "text_pair": f"right {n}", "label": n % 2} for n in range(6)]
    write_bytes("a.jsonl", json_lines(graded))
    write_bytes("b.csv", b"text,text_pair,label\nx,y,1.0\nx,z,0\n")
    positives = {"task": "retri_contrast", "columns": {"text_pos": "text_pair"}, "where": {"label": 1}}
    train, _ = ingest(
        {"uri": "a.jsonl", "task": "cosent"},
        {"uri": "a.jsonl", "name": "positives", **positives},
        {"uri": "b.csv", **positives},
    )
    ledger = train.ledger.as_dict()
    assert ledger["rows_out"] == {"a": 6, "b": 1, "positives": 3}
    assert ledger["dropped"] == {"b": {"not_selected": 1}, "positives": {"not_selected": 3}}
    with pytest.raises(InputError, match=r"b\.csv: no column 'lable' for the source's 'where'; columns found: label, "):
        ingest({"uri": "b.csv", **positives, "where": {"lable": 1}})
    with pytest.raises(
        InputError, match=r"most often not_selected \(6 of 6\), first in row 0 of a\.jsonl: does not meet"
    ):
        ingest({"uri": "a.jsonl", **positives, "where": {"label": 9}})
