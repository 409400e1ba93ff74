from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import extraction


def test_f1_counts_words_as_often_as_they_occur() -> None:
    precision, recall, f1 = extraction.f1(Counter("aab"), Counter("abbc"))
    assert (precision, recall) == (2 / 3, 2 / 4)
    assert f1 == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert extraction.f1(Counter("aab"), Counter("xyz"))[2] == 0
    assert extraction.f1(Counter(), Counter("a")) == (0, 0, 0)
    assert extraction.f1(Counter(), Counter()) == (1, 1, 1)


def test_a_page_that_was_not_found_counts_as_empty() -> None:
    gold = {"one": "The quick brown fox jumps.", "two": "Nothing of this was found."}
    scores = extraction.evaluate({"one": "the QUICK brown, fox... jumps"}, gold)
    assert scores == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "shingle_f1": 0.5, "empty": 1}


def test_shingles_keep_order() -> None:
    assert extraction.shingles(list("abcde")) == Counter({("a", "b", "c", "d"): 1, ("b", "c", "d", "e"): 1})
    assert extraction.shingles(["a"]) == Counter({("a",): 1})
