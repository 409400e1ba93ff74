"""The row rules on public datasets: clean text stays, whatever its script, and its language is told."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import opencc
import pytest

from components.core.records import record_table
from components.core.textnorm import normalise_key
from components.filter.contamination import Reference
from components.filter.judgement import judge
from components.filter.mojibake import mojibake_shares
from components.filter.normalise import clean_text
from components.filter.params import FilterParams
from components.filter.reasons import REASONS


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") as file:
        yield from map(json.loads, file)


def beir(folder: Path) -> list[tuple[str, str]]:
    """Queries with a relevant passage each."""
    corpus = {row["_id"]: row["text"] for row in lines(folder / "corpus.jsonl.gz")}
    queries = {row["_id"]: row["text"] for row in lines(folder / "queries.jsonl.gz")}
    texts = [path.read_text() for path in sorted((folder / "qrels").iterdir())]
    rows = (line.split("\t") for text in texts for line in text.splitlines()[1:])
    return [(queries[q], corpus[d]) for q, d, score, *_ in rows if float(score) > 0 and q in queries and d in corpus]


def judged(pairs: list[tuple[str, str]]) -> tuple[Counter[str], Counter[str]]:
    """Rows by reason, and by language."""
    rows = [{"task": "retri_contrast", "text": left, "text_pos": right, "source": "s"} for left, right in pairs]
    params = FilterParams.model_validate({"languages": [], "contamination": {"exact": False, "near": None}})
    judgement = judge(record_table(rows), params, Reference.of((), None))
    return Counter(REASONS[code] for code in judgement.verdict.codes), Counter(judgement.languages)


@pytest.mark.parametrize(
    ("name", "language"),
    [("drcd_retrieval", "zh"), ("csl_title2abs", "zh"), ("cmrc2018_retrieval", "zh"), ("trecqa_wang", "en")],
)
def test_clean_pairs_stay_and_their_language_is_told(shared_data: Path, name: str, language: str) -> None:
    pairs = beir(shared_data / name)
    reasons, languages = judged(pairs)
    assert reasons[""] / len(pairs) > 0.995, reasons
    assert languages[language] / len(pairs) > 0.99, languages


def test_a_text_in_traditional_characters_has_the_key_of_its_simplified_form(shared_data: Path) -> None:
    texts = [row["text"] for row in lines(shared_data / "zh_train_clean" / "lcqmc__dev.jsonl.gz")]
    for variant in ("s2t", "s2tw", "s2hk"):
        traditional = opencc.OpenCC(variant).convert("\n".join(texts)).split("\n")
        changed = [(a, b) for a, b in zip(texts, traditional, strict=True) if a != b]
        same = sum(normalise_key(a) == normalise_key(b) for a, b in changed)
        assert len(changed) > 1000 and same / len(changed) > 0.99


@pytest.mark.parametrize(
    ("written", "read"),
    [("utf-8", "gbk"), ("utf-8", "latin-1"), ("utf-8", "cp1252"), ("gbk", "utf-8"), ("gbk", "latin-1")],
)
def test_real_chinese_read_with_a_wrong_encoding_is_found(shared_data: Path, written: str, read: str) -> None:
    texts = [row["text"] for row in lines(shared_data / "zh_train_clean" / "lcqmc__dev.jsonl.gz")]
    sample = [text for text in random.Random(1).sample(texts, 1000) if not text.isascii()]
    broken = [clean_text(text.encode(written, "replace").decode(read, "replace")) for text in sample]
    limit = FilterParams().max_mojibake_share["default"]
    assert (mojibake_shares(broken) > limit).mean() > 0.99
    assert (mojibake_shares([clean_text(text) for text in sample]) > limit).mean() < 0.002


def test_real_english_whose_quotation_marks_were_read_with_a_wrong_encoding_is_found(shared_data: Path) -> None:
    """Of “ ” ’, Latin-1 shows one letter and two controls, which no reader sees."""
    names = ("mrpc__train", "sts12__train", "stsb_en__train")
    rows = (row for name in names for row in lines(shared_data / "en_train_clean" / f"{name}.jsonl.gz"))
    texts = sorted({row["text"].replace("'", "’").replace(' "', " “").replace('"', "”") for row in rows})
    texts = [text for text in texts if not text.isascii() and len(text) < 250]
    limit = FilterParams().max_mojibake_share["default"]
    assert len(texts) > 1000
    for read in ("latin-1", "cp1252"):
        broken = [clean_text(text.encode().decode(read, "replace")) for text in texts]
        assert (mojibake_shares(broken) > limit).mean() > 0.97, read
    assert not (mojibake_shares([clean_text(text) for text in texts]) > limit).any()
