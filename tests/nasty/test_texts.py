"""Texts that trip careless code: very short ones, variants of one row, and texts of nothing that a reader can see.

Each goes as a real file through sources, ingest and filter; every row is accounted for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from components.core.manifest import Dataset

Filtered = Callable[..., Dataset]
PARAMS: dict[str, Any] = {"languages": [], "contamination": {"exact": False, "near": None}}


@pytest.fixture
def filtered(tmp_path: Path, embedmill: Callable[..., CompletedProcess[str]]) -> Filtered:
    """Writes rows as a JSON-lines file, runs the three steps on it, checks the accounts; returns the filtered rows."""

    def run(rows: Sequence[dict[str, Any]], task: str = "retri_contrast", ascii_only: bool = False) -> Dataset:
        lines = (json.dumps(row, ensure_ascii=ascii_only) for row in rows)
        (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines))
        ingest = {"sources": [{"uri": "rows.jsonl", "name": "rows", "task": task}]}
        (tmp_path / "graded.csv").write_text("sentence1,sentence2,score\none,two,1\nthree,four,0\n")
        suite = {"suite": [{"name": "graded", "type": "sts", "uri": "graded.csv"}]}
        params = {"ingest": ingest, "filter": PARAMS, "evaluate": suite}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        for step in ("sources", "ingest", "filter"):
            done = embedmill(step)
            assert done.returncode == 0, done.stderr
        ingested, dataset = Dataset.open(str(tmp_path / "data/ingest")), Dataset.open(str(tmp_path / "data/filter"))
        assert ingested.ledger.rows_in == {"rows": len(rows)}
        lost = sum(sum(side.get("rows", Counter()).values()) for side in _sides(ingested) + _sides(dataset))
        assert dataset.rows + lost == len(rows)
        return dataset

    return run


def _sides(dataset: Dataset) -> list[dict[str, Counter[str]]]:
    return [dataset.ledger.dropped, dataset.ledger.quarantined]


def pairs(dataset: Dataset) -> list[tuple[str, str]]:
    rows = dataset.read(["text", "text_pos", "text_pair"]).to_pylist()
    return [(row["text"], row["text_pos"] or row["text_pair"]) for row in rows]


def test_texts_under_five_characters_are_never_near_duplicates(filtered: Filtered) -> None:
    words = ["还款", "借款", "还", "借", "ab", "abc", "abcd", "abd", "a1", "a2", "人", "大人", "大大人", "大大大人"]
    rows = [{"query": left, "pos": right} for left in words for right in words if left != right]
    dataset = filtered(rows)
    by_minimum = [row for row in rows if any(len(side) < (2 if _chinese(row) else 3) for side in row.values())]
    assert dataset.ledger.dropped == {"rows": {"too_short": len(by_minimum)}}
    assert set(pairs(dataset)) == {(row["query"], row["pos"]) for row in rows if row not in by_minimum}


def _chinese(row: dict[str, str]) -> bool:
    """As the script rule says: an ideograph carries as much as three letters; digits and equal weights say nothing."""
    text = "".join(row.values())
    return 3 * sum("\u4e00" <= letter <= "\u9fff" for letter in text) > sum(
        letter.isascii() and letter.isalpha() for letter in text
    )


QUESTION, ANSWER = "怎么开通花呗ABC?", "打开支付宝,点击“我的”,选择 App 里的花呗,按照提示操作就可以了."
VARIANTS = {
    "full width": ("怎么开通花呗ＡＢＣ？", "打开支付宝，点击“我的”，选择 Ａｐｐ 里的花呗，按照提示操作就可以了．"),
    "traditional": ("怎麼開通花唄ABC?", "打開支付寶,點擊“我的”,選擇 App 裡的花唄,按照提示操作就可以了."),
    "zero width": ("怎么\u200b开通\u2060花呗\ufeffABC?", ANSWER.replace("花呗", "花\u200b呗")),
    "bidi": (f"\u202a{QUESTION}\u202c", f"\u2067{ANSWER}\u2069"),
    "case": (QUESTION.replace("ABC", "abc"), ANSWER),
    "spaces": (f"  {QUESTION}\t", ANSWER.replace(" ", "\u3000 ")),
    "all of it": (
        "怎麼\u200b開通花唄ａｂｃ？\n",
        "\u202d打開支付寶，點擊“我的”，選擇\u00a0ａｐｐ  裏的花唄，按照提示操作就可以了.\u202c",
    ),
}


@pytest.mark.parametrize("task", ["retri_contrast", "cosent"])
@pytest.mark.parametrize("order", [1, -1])
def test_variants_of_one_row_have_one_key_and_the_survivor_keeps_its_text(
    filtered: Filtered, task: str, order: int
) -> None:
    everything = [(QUESTION, ANSWER), *VARIANTS.values()][::order]
    names = ("query", "pos") if task == "retri_contrast" else ("sentence1", "sentence2")
    label = {} if task == "retri_contrast" else {"score": 1.0}
    rows = [dict(zip(names, pair, strict=True), **label) for pair in everything]
    dataset = filtered(rows, task)
    assert dataset.ledger.dropped == {"rows": {"exact_duplicate": len(rows) - 1}}
    [(text, other)] = pairs(dataset)
    originals = {(_visible(left), _visible(right)) for left, right in everything}
    assert (text, other) in originals  # full width and traditional characters are not folded in what is trained on


def _visible(text: str) -> str:
    """What cleaning leaves: no invisible characters, plain single spaces; width, case and variant as they were."""
    for mark in "\u200b\u2060\ufeff\u202a\u202c\u202d\u2067\u2069":
        text = text.replace(mark, "")
    return " ".join(text.split())


def test_a_difference_that_means_something_is_no_variant(filtered: Filtered) -> None:
    rows = [{"query": QUESTION, "pos": ANSWER}, {"query": QUESTION.replace("开通", "关闭"), "pos": ANSWER}]
    assert filtered(rows).rows == 2


GOOD = "a passage that is long enough to say something about the question"
NOTHING = {
    "nul": "\x00\x00\x00\x00",
    "newlines": "\n\r\n\u2028\u2029\x85\n",
    "bidi": "\u202e\u202d\u2066\u2069\u200f\u061c",
    "zero width": "\u200b\ufeff\u2060\u00ad",
    "spaces": "\u3000\u00a0 \t\u2003",
    "emoji": "😀😀😀🎉",
    "one emoji": "😀",
    "emoji of several code points": "👩‍👩‍👧‍👦❤️🇨🇳👍🏽",
    "keycaps and dingbats": "✔️⃣❌➡️",
    "punctuation": "？！…——~~~",
    "long emoji": "🎉" * 200,
    "all of it": "\x00\n\u202e😀\u200b\n",
}


@pytest.mark.parametrize("ascii_only", [True, False])
def test_texts_of_nothing_have_a_reason_each_and_take_no_other_row_along(filtered: Filtered, ascii_only: bool) -> None:
    rows = [{"query": "a good question", "pos": GOOD}]
    rows += [{"query": text, "pos": f"{GOOD}, {name}"} for name, text in NOTHING.items()]
    rows += [{"query": f"a question about {name}", "pos": text} for name, text in NOTHING.items()]
    rows.append({"query": "another good question", "pos": f"{GOOD} 😀\u202e\x00"})
    dataset = filtered(rows, ascii_only=ascii_only)
    assert pairs(dataset) == [("a good question", GOOD), ("another good question", f"{GOOD} 😀")]
    reasons = {row["reason"] for row in dataset.read_rejected().to_pylist()}
    assert reasons <= {"empty", "too_short", "symbols", "repetition"} and {"empty", "symbols"} <= reasons
    assert all(row["record"] for row in dataset.read_rejected().to_pylist())
