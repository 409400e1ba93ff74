from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.records import record_table
from components.filter.contamination import CLEAN, EXACT, NEAR, Reference
from components.filter.judgement import judge
from components.filter.params import FilterParams

TEXT = (
    "Return a list of the lines of the file, each without its line end; the file is closed when the last one is read, "
    "and an error is raised if it is not text."
)
SUITE = ["Return the name.", TEXT, "花呗怎么还款", ""]


def statuses(rows: list[dict[str, Any]], reference: Reference, near: float | None = 0.8) -> list[int]:
    params = FilterParams.model_validate({"languages": [], "contamination": {"exact": True, "near": near}})
    judged = judge(record_table([{"source": "test", **row} for row in rows]), params, reference)
    assert not judged.verdict.codes.any()
    return judged.contaminated.tolist()


def retrieval(query: str = "lines of a file", passage: str = "A passage about something else.", **more: Any) -> Any:
    return {"task": "retri_contrast", "text": query, "text_pos": passage, **more}


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(SUITE, 0.8)


def test_texts_of_the_suite_are_found_on_every_side(reference: Reference) -> None:
    rows = [
        retrieval(),
        retrieval(query="return  the NAME."),
        retrieval(passage=TEXT),
        retrieval(text_neg=["harmless", TEXT]),
        {"task": "cosent", "text": "怎么还花呗的款", "text_pair": "花呗怎么还款", "label": 1.0},
        {"task": "cosent", "text": "花呗怎么还款", "text_pair": "怎么还花呗的款", "label": 1.0},
    ]
    assert statuses(rows, reference) == [CLEAN, EXACT, EXACT, EXACT, EXACT, EXACT]


def test_a_suite_in_simplified_chinese_is_found_in_traditional_rows_and_the_reverse(reference: Reference) -> None:
    rows = [retrieval(query="花唄怎麼還款"), retrieval(query="花唄怎麼退款")]
    assert statuses(rows, reference) == [EXACT, CLEAN]
    assert statuses([retrieval(query="花呗怎么还款")], Reference.of(["花唄怎麼還款"], 0.8)) == [EXACT]


def test_near_duplicates_are_found_and_verified(reference: Reference) -> None:
    rows = [
        retrieval(passage=TEXT.replace("raised", "given")),
        retrieval(passage=TEXT[:80] + " and then goes on about another matter altogether, twice as long as before."),
        {"task": "cosent", "text": "花呗怎么退款", "text_pair": "借呗怎么还款", "label": 0.0},
    ]
    assert statuses(rows, reference) == [NEAR, CLEAN, CLEAN]
    assert statuses(rows[:1], Reference.of(SUITE, None), near=None) == [CLEAN]


def test_label_texts_may_be_in_the_suite(reference: Reference) -> None:
    labelled = {
        "task": "cls_contrast",
        "text": "something harmless",
        "text_pos": "Return the name.",
        "text_neg": [TEXT],
    }
    assert statuses([labelled], reference) == [CLEAN]


def test_an_exact_match_is_the_stronger_evidence(reference: Reference) -> None:
    row = retrieval(query="Return the name.", passage=TEXT.replace("raised", "given"))
    params = FilterParams(languages=())
    judged = judge(record_table([{"source": "test", **row}]), params, reference)
    assert judged.contaminated.tolist() == [EXACT]
    assert judged.evidence == ["return the name."]


def test_a_reference_survives_its_file(tmp_path: Path, reference: Reference) -> None:
    for original in (reference, Reference.of((), None), Reference.of(SUITE, None)):
        original.write(str(tmp_path / "reference.arrow"))
        read = Reference.read(str(tmp_path / "reference.arrow"))
        assert read.keys == original.keys
        assert read.digest == original.digest
        assert np.array_equal(read.band_rows, original.band_rows)


def test_the_order_of_the_suite_does_not_matter(reference: Reference) -> None:
    assert Reference.of(SUITE[::-1] + SUITE, 0.8).digest == reference.digest
