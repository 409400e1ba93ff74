from __future__ import annotations

from typing import Any

import pytest

from components.core.records import record_table
from components.filter.contamination import Reference
from components.filter.judgement import judge
from components.filter.params import FilterParams
from components.filter.verdict import REASONS

PASSAGE = "Open the file that is named and give back its rows, one after the other, as lists of text."


def reason(row: dict[str, Any], **params: Any) -> str:
    table = record_table([{"source": "test", **row}])
    judged = judge(table, FilterParams.model_validate({"languages": [], **params}), Reference.of((), None))
    return REASONS[judged.verdict.codes[0]]


def retrieval(query: str = "read a csv file", passage: str = PASSAGE) -> dict[str, Any]:
    return {"task": "retri_contrast", "text": query, "text_pos": passage}


def cosent(left: str, right: str, label: float = 1.0) -> dict[str, Any]:
    return {"task": "cosent", "text": left, "text_pair": right, "label": label}


def label(text: str, name: str) -> dict[str, Any]:
    return {"task": "cls_contrast", "text": text, "text_pos": name}


@pytest.mark.parametrize(
    "row",
    [
        retrieval(),
        retrieval("怎么还款", "打开支付宝，点击花呗，选择还款。"),
        cosent("怎么还", "如何还款"),
        cosent("借不到", "为什么我的微粒贷额度从三万降到了一万而且现在还不能借出来呢"),
        label(PASSAGE, "io"),
        label(PASSAGE, "3"),
        retrieval("numpy ndarray", "def ndarray(shape, dtype=float, buffer=None, offset=0, strides=None, order=None)"),
        retrieval("What is 2 + 2?", "It is 4."),
        retrieval("Projects", f"{PASSAGE} See https://docs.python.org/3/library/csv.html."),
        retrieval("标题", "内容" * 6 + "很多不同的字组成了这样一段中文，它不重复，也没有网址。"),
    ],
)
def test_good_rows_pass(row: dict[str, Any]) -> None:
    assert reason(row) == ""


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (retrieval(query="\u200b \n"), "empty"),
        (retrieval(passage="\u3164"), "empty"),
        (label(PASSAGE, " "), "empty"),
        (retrieval(query="ab"), "too_short"),
        (retrieval(query="word " * 300), "too_long"),
        (retrieval(passage=f"{PASSAGE} " * 300), "too_long"),
        (retrieval(passage="+---+---+\n| a | b |\n+---+---+\n| c | d |\n+---+---+"), "symbols"),
        (retrieval(passage="12 435 3245 53 4321 4312 4234 99 and so on"), "digits"),
        (retrieval(passage="buy now! " * 30), "repetition"),
        (retrieval(passage="See https://example.org/a/long/path/to/some/page?with=arguments for it."), "urls"),
        (retrieval(passage="Itâ€™s broken: cafÃ© and naÃ¯ve, all of it."), "mojibake"),
        (retrieval(passage="锟斤拷锟斤拷烫烫烫 以及一些别的中文字符在后面"), "mojibake"),
        (retrieval(query=PASSAGE.upper(), passage=PASSAGE), "identical_sides"),
        (
            cosent("短句子", "".join(map(chr, range(0x4E00, 0x5200)))),
            "unequal_sides",
        ),
    ],
)
def test_bad_rows_are_dropped_for_their_reason(row: dict[str, Any], expected: str) -> None:
    assert reason(row) == expected


def test_identical_sides_are_a_fair_cosent_pair() -> None:
    assert reason(cosent("一个男人在跳舞。", "一个男人在跳舞。", 5.0)) == ""


def test_a_summary_may_be_paired_with_a_whole_passage() -> None:
    assert reason(cosent("Read a file.", " ".join(f"line {index} of it" for index in range(60)))) == ""


def test_thresholds_can_differ_by_language() -> None:
    short = {"min_characters": {"default": 12, "zh": 2}}
    assert reason(cosent("a short text", "too short"), **short) == "too_short"
    assert reason(cosent("还款", "怎么还"), **short) == ""
    assert reason(cosent("还款", "怎么还"), min_characters=3) == "too_short"


def test_the_first_reason_counts_and_has_a_detail() -> None:
    table = record_table([{"source": "test", **retrieval(query="a", passage="锟斤拷锟斤拷")}])
    judged = judge(table, FilterParams(languages=()), Reference.of((), None))
    assert REASONS[judged.verdict.codes[0]] == "too_short"
    assert judged.verdict.details == ["1 characters"]
