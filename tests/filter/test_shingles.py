from __future__ import annotations

import random

import numpy as np
import pytest

from components.filter.shingles import BATCH_TEXTS, WIDTH, jaccard, shingle_sets


def reference_set(text: str) -> set[str]:
    padded = "\0" * (WIDTH - 1) + text + "\0" * (WIDTH - 1)
    return {padded[start : start + WIDTH] for start in range(len(padded) - WIDTH + 1)} if text else set()


def similarity(left: str, right: str) -> float:
    return float(jaccard(shingle_sets([left, right]), np.array([0]), np.array([1]))[0])


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
