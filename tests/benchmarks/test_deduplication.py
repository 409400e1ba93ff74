from __future__ import annotations

import pytest

from benchmarks import deduplication, texts
from benchmarks.deduplication import Corpus

pytestmark = pytest.mark.usefixtures("shared_data")


def test_a_corpus_holds_what_was_planted() -> None:
    made = deduplication.corpus("en", sizes=(120, 20, 10, 12), seed=2)
    assert made == deduplication.corpus("en", sizes=(120, 20, 10, 12), seed=2)
    assert len(made.documents) == 162
    sets = [texts.shingles(text) for text in made.documents]
    for pairs, count, low, high in ((made.near, 20, 0.8, 0.85), (made.exact, 10, 1, 1), (made.apart, 12, 0.6, 0.75)):
        assert len(pairs) == count
        assert all(low <= texts.jaccard(sets[one], sets[other]) <= high for one, other in pairs)
    for one, other in (*made.near, *made.exact, *made.apart):
        assert made.titles[one] == made.titles[other]
    assert len(set(made.titles)) == 120
    assert len({row for pairs in (made.near, made.exact, made.apart) for pair in pairs for row in pair}) == 84


def test_nearest_is_the_greatest_exact_jaccard() -> None:
    documents = deduplication.corpus("zh", sizes=(60, 9, 4, 6), seed=1).documents
    sets = [texts.shingles(text) for text in documents]
    found = deduplication.nearest(documents, [0, 7, 33])
    for row, similarity in found.items():
        expected = max(texts.jaccard(sets[row], other) for number, other in enumerate(sets) if number != row)
        assert similarity == pytest.approx(expected)


def test_recall_and_precision() -> None:
    made = Corpus(["t"] * 8, ["a"] * 8, near=[(0, 1), (2, 3)], exact=[(4, 5)], apart=[(6, 7)])
    quality = deduplication.judge(made, kept={0, 2, 3, 4, 6}, similar={1: 0.9, 5: 1.0, 7: 0.7})
    assert quality == {"recall_near": 0.5, "recall_exact": 1.0, "kept_apart": 0.0, "removed": 3, "precision": 2 / 3}
