from __future__ import annotations

import random

import numpy as np
import pytest

from components.filter.minhash import VALUES, Bands, band_hashes, cut, signatures
from components.filter.shingles import jaccard, shingle_sets

WORDS = [
    "read",
    "write",
    "a",
    "the",
    "csv",
    "file",
    "table",
    "row",
    "column",
    "index",
    "value",
    "return",
    "表",
    "行",
    "列",
]


def sentences(count: int) -> list[str]:
    choose = random.Random(5)
    base = [" ".join(choose.choices(WORDS, k=40)) for _ in range(count // 4)]
    return [text[choose.randrange(20) :] + choose.choice(WORDS) * copy for text in base for copy in range(4)]


def test_signatures_estimate_jaccard() -> None:
    texts = sentences(200)
    left, right = np.repeat(np.arange(0, 200, 4), 3), np.delete(np.arange(200), np.arange(0, 200, 4))
    exact = jaccard(shingle_sets(texts), left, right)
    signature = signatures(texts)
    estimate = (signature[:, left] == signature[:, right]).mean(axis=0)
    # the standard deviation of an estimate is at most 0.5 / sqrt(128) = 0.044
    assert np.abs(estimate - exact).max() < 0.18
    assert abs((estimate - exact).mean()) < 0.02


def test_a_signature_depends_on_its_text_alone() -> None:
    texts = ["怎么还款", "x", "a longer text " * 9000, "y"]
    together = signatures(texts)
    alone = np.concatenate([signatures([text]) for text in texts], axis=1)
    assert together.shape == (VALUES, 4)
    assert np.array_equal(together, alone)


def test_signatures_are_the_same_for_good() -> None:
    assert signatures(["read a csv file"])[[0, 1, 64, 65], 0].tolist() == [211364822, 867557458, 4239396515, 4226120196]


@pytest.mark.parametrize(("threshold", "sides"), [(0.5, 1), (0.8, 1), (0.85, 2), (0.95, 2), (1.0, 1)])
def test_bands_find_pairs_at_the_threshold(threshold: float, sides: int) -> None:
    bands = cut(threshold, sides)
    assert 1 - (1 - threshold ** (bands.rows * sides)) ** bands.count >= 0.99
    assert bands.rows * bands.count <= VALUES


def test_equal_bands_mean_equal_rows() -> None:
    signature = np.zeros((VALUES, 3), np.uint32)
    signature[7, 1] = 1
    hashes = band_hashes(signature, Bands(25, 5))
    assert hashes.shape == (25, 3)
    assert np.array_equal(hashes[:, 0], hashes[:, 2])
    assert np.flatnonzero(hashes[:, 0] != hashes[:, 1]).tolist() == [1]
