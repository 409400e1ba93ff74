"""Lexical baselines: what counts as a word, and their strength on real collections."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.suite import RetrievalTask, StsTask, SuiteParams, load_suite
from components.evaluate.lexical import bm25, tfidf, words


@pytest.mark.parametrize(
    ("text", "identifiers", "expected"),
    [
        ("Read CSV-files, 2 of them", False, ["read", "csv", "files", "2", "of", "them"]),
        ("read_csv", False, ["read_csv"]),
        ("read_csv(HTTPServer2)", True, ["read_csv", "read", "csv", "httpserver2", "http", "server", "2"]),
        ("plain", True, ["plain"]),
        ("读取csv文件", False, ["读", "取", "读取", "csv", "文", "件", "文件"]),
        ("好", False, ["好"]),
        ("Čeština naïve", True, ["čeština", "naïve"]),
        ("—", True, []),
    ],
)
def test_words(text: str, identifiers: bool, expected: list[str]) -> None:
    assert words(text, identifiers) == expected


def test_bm25_stems_english_and_sees_into_identifiers() -> None:
    passages = ["A function that is closing sockets.", "def read_csv(path)", "Something else entirely."]
    task = RetrievalTask("t", "en", ["close the socket", "read csv", "the"], passages, [{0: 1.0}, {1: 1.0}, {2: 1.0}])
    # without parts of identifiers the second query matches nothing, the third is a stop word: ranks 1, 2, 3
    assert bm25(task, identifiers=False)["mrr_at_10"] == pytest.approx(100 * (1 + 1 / 2 + 1 / 3) / 3, abs=1e-3)
    assert bm25(task, identifiers=True)["mrr_at_10"] == pytest.approx(100 * (1 + 1 + 1 / 3) / 3, abs=1e-3)


def test_strength_on_real_collections(shared_data: Path) -> None:
    chinese = SuiteParams(name="zh", type="sts", uri=str(shared_data / "zh_train_clean/stsb_zh__dev.jsonl.gz"))
    english = SuiteParams(name="en", type="beir", uri=str(shared_data / "trecqa_wang"))
    similarity, retrieval = load_suite([chinese, english], None)
    assert isinstance(similarity, StsTask)
    assert isinstance(retrieval, RetrievalTask)
    assert tfidf(similarity)["spearman"] == pytest.approx(72.96, abs=0.1)
    assert bm25(retrieval, identifiers=False)["ndcg_at_10"] > 53.2  # of plain words, without stemming
