from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.records import pair_id, record_table
from components.filter.normalise import clean_table, clean_text

CASES = [
    ("\ufeff read\u200b a\u00a0file ", "read a file"),
    ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
    ("a  b\t\tc", "a b c"),
    ("if x:\n    return  y  \n\n\n\nelse:", "if x:\n    return y\n\nelse:"),
    ("\u202eevil\u202c \x00\x07bell\x1b[0m", "evil bell[0m"),
    ("hid\U000e0041\U000e0042den", "hidden"),
    ("全角\u3000空格", "全角 空格"),
    ("می\u200cخواهم", "می\u200cخواهم"),
    ("👩\u200d💻", "👩\u200d💻"),
    ("soft\u00adhyphen", "softhyphen"),
    ("donâ\x80\x99t; Ã\x89cole; ð\x9f\x98\x80", "don\ufffd\ufffd\ufffdt; \ufffd\ufffdcole; \ufffd\ufffd\ufffd\ufffd"),
    ("the caf\u00e9\x85\x85is open, don\x92t \x80 \u00e2\x80", "the caf\u00e9\n\nis open, dont \u00e2"),
    ("untouched text，无需改动。", "untouched text，无需改动。"),
]


@pytest.mark.parametrize(("raw", "clean"), CASES)
def test_only_what_has_no_meaning_goes(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean


@given(st.text(st.sampled_from("ab \t\n\r\x0b\x80\x85\x99\u00a0\u00c3\u00e2\u200b\u3000\u2028\x00中"), max_size=12))
@settings(max_examples=500, derandomize=True, deadline=None)
def test_cleaning_is_idempotent_and_the_same_for_a_column(text: str) -> None:
    clean = clean_text(text)
    assert clean_text(clean) == clean
    table = record_table([{"task": "cosent", "text": "plain", "text_pair": text, "text_neg": [text, "b"]}])
    cleaned = clean_table(table)
    assert cleaned["text_pair"].to_pylist() == [clean]
    assert cleaned["text_neg"].to_pylist() == [[clean, "b"] if clean else ["b"]]


def test_a_table_keeps_nulls_and_renews_ids() -> None:
    rows = [
        {"task": "retri_contrast", "text": " a ", "text_pos": "b", "text_neg": ["\u200b", " c"]},
        {"task": "cosent", "text": "a", "text_pair": "b\u200b", "label": 1.0, "text_neg": ["\u200b"]},
        {"task": "cls_contrast", "text": "d", "text_pos": "e"},
    ]
    table = clean_table(record_table(rows))
    assert table["text_pos"].to_pylist() == ["b", None, "e"]
    assert table["text_neg"].to_pylist() == [["c"], None, None]
    assert table["id"].to_pylist()[0] == pair_id("retri_contrast", "a", "b")
    assert table.schema == record_table(rows).schema
    assert len(clean_table(record_table([]))) == 0
