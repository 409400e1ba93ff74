from __future__ import annotations

import random

import numpy as np
import pytest

from components.filter.shingles import BATCH_TEXTS, WIDTH, Unit, jaccard, shingle_sets


def reference_set(text: str) -> set[str]:
    padded = "\0" * (WIDTH - 1) + text + "\0" * (WIDTH - 1)
    return {padded[start : start + WIDTH] for start in range(len(padded) - WIDTH + 1)} if text else set()


def word_set(text: str) -> set[tuple[str, ...]]:
    padded = ["\0"] * (WIDTH - 1) + text.split() + ["\0"] * (WIDTH - 1)
    return {tuple(padded[start : start + WIDTH]) for start in range(len(padded) - WIDTH + 1)} if text else set()


def similarity(left: str, right: str, unit: Unit = "character") -> float:
    return float(jaccard(shingle_sets([left, right], unit), np.array([0]), np.array([1]))[0])


def test_jaccard_equals_that_of_python_sets() -> None:
    choose = random.Random(3)
    texts = ["".join(choose.choices("ab 中文", k=choose.randrange(40))) for _ in range(300)] + ["", "x"]
    left = np.array([choose.randrange(len(texts)) for _ in range(2000)])
    right = np.array([choose.randrange(len(texts)) for _ in range(2000)])
    expected = []
    for a, b in zip(left, right, strict=True):
        one, two = reference_set(texts[a]), reference_set(texts[b])
        expected.append(len(one & two) / max(1, len(one | two)))
    assert jaccard(shingle_sets(texts), left, right).tolist() == pytest.approx(expected, abs=1e-12)


def test_sets_do_not_depend_on_batches() -> None:
    texts = [f"text {index % 97} of many" if index % 5 else "" for index in range(BATCH_TEXTS + 50)]
    sets = shingle_sets(texts)
    assert sets.sizes.tolist() == [len(reference_set(text)) for text in texts]
    last = shingle_sets(texts[-1:])
    assert np.array_equal(sets.values[sets.offsets[-2] :], last.values)


def test_empty_texts_are_like_nothing() -> None:
    assert similarity("", "") == 0
    assert similarity("", "a") == 0


def test_short_texts_have_sets() -> None:
    assert similarity("a", "a") == 1
    assert similarity("a", "b") == 0


@pytest.mark.parametrize("position", [0, 10, 28, 56])
def test_one_character_parts_texts_of_up_to_57_wherever_it_stands(position: int) -> None:
    text = "".join(chr(0x4E00 + index) for index in range(57))
    other = text[:position] + "不" + text[position + 1 :]
    assert similarity(text, other) == pytest.approx(56 / 66)
    assert similarity(text, other) < 0.85


def test_word_shingles_equal_those_of_python_sets() -> None:
    choose = random.Random(5)
    words = ["a", "an", "ab", "the", "file", "é", "naïve", "한국어", "x" * 40]
    texts = [" ".join(choose.choices(words, k=choose.randrange(12))) for _ in range(300)] + [
        "",
        "x",
        "中 文 a",
        "ไทย a b",
    ]
    sets = [reference_set(text) if "中" in text or "ไ" in text else word_set(text) for text in texts]
    left = np.array([choose.randrange(len(texts)) for _ in range(2000)])
    right = np.array([choose.randrange(len(texts)) for _ in range(2000)])
    expected = [len(sets[a] & sets[b]) / max(1, len(sets[a] | sets[b])) for a, b in zip(left, right, strict=True)]
    made = shingle_sets(texts, "word")
    assert made.sizes.tolist() == [len(each) for each in sets]
    assert jaccard(made, left, right).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("text", ["怎么还款", "Python で書く", "ภาษาไทย is Thai", "漢字 and kanji"])
def test_texts_in_scripts_without_spaces_have_one_set_whatever_is_wanted(text: str) -> None:
    among = ["plain words", text, "more plain words"]
    for unit in ("character", "word"):
        sets = shingle_sets(among, unit)
        assert np.array_equal(sets.values[sets.offsets[1] : sets.offsets[2]], shingle_sets([text]).values)


def test_short_texts_of_words_do_not_merge() -> None:
    assert similarity("hello", "hello", "word") == 1
    assert similarity("hello", "world", "word") == 0
    assert similarity("", "", "word") == 0
    assert similarity("how do i open the file", "how do i close the file", "word") < 0.5
