"""The kernel against scikit-learn itself: the same buckets for any text, the same probabilities."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

from components.classifier.model import fit
from components.core.hashed import HashedGrams, HashedRegression

SAME = {"binary": True, "alternate_sign": False, "strip_accents": "unicode", "dtype": np.float32}
WORDS = {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"}
VECTORISERS = (
    HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=1 << 18, **SAME),
    HashingVectorizer(analyzer="char", ngram_range=(2, 2), n_features=1000, **SAME),
    HashingVectorizer(n_features=1 << 18, **WORDS, **SAME),
)
UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SPOKEN = st.text(
    st.sampled_from(
        list("abcÀéİıßΣσς ñ_1٣\t\n\u00a0\u3000\u2028\x1c，。ａ你好한각が゙́̈😀👩\u200d👧🏽ﬁⅧ\U0002f800㍿\ufdfa")
    ),
    max_size=60,
)


def _own(grams: HashedGrams, texts: list[str]) -> list[list[int]]:
    buckets, owner = grams.buckets(texts)
    return [buckets[owner == index].tolist() for index in range(len(texts))]


def _sklearn(vectoriser: HashingVectorizer, texts: list[str]) -> list[list[int]]:
    matrix = vectoriser.transform(texts)
    return [sorted(matrix[index].indices.tolist()) for index in range(len(texts))]


@pytest.mark.parametrize("vectoriser", VECTORISERS, ids=["characters", "bigrams", "words"])
@settings(max_examples=300, deadline=None)
@given(st.lists(UNICODE | SPOKEN, min_size=1, max_size=6))
@example(["", "a", "😀", " ", "  ", "\n", " \t", "ΑΣ", "ΑΣ Σ", "́", "", "a\n"])
@example(["a" * 300 + " " + "中" * 400, "", "ﷺ" * 50])
def test_buckets_are_those_of_scikit_learn(vectoriser: HashingVectorizer, texts: list[str]) -> None:
    grams = HashedGrams.of(vectoriser)
    assert grams is not None
    assert _own(grams, texts) == _sklearn(vectoriser, texts)


@pytest.mark.parametrize("vectoriser", [VECTORISERS[0], VECTORISERS[2]], ids=["characters", "words"])
def test_every_character_is_folded_as_scikit_learn_folds_it(vectoriser: HashingVectorizer) -> None:
    letters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    # every character between two letters; thirty in a text, so that one that differs shows as a bucket
    texts = ["x".join(letters[start : start + 30]) for start in range(0, len(letters), 30)]
    grams = HashedGrams.of(vectoriser)
    assert grams is not None
    buckets, owner = grams.buckets(texts)
    matrix = vectoriser.transform(texts)
    matrix.sort_indices()
    assert np.array_equal(np.repeat(np.arange(len(texts)), np.diff(matrix.indptr)), owner)
    assert np.array_equal(matrix.indices, buckets)


@pytest.mark.parametrize("words", [False, True])
def test_probabilities_are_those_of_the_pipeline_whatever_the_batch(words: bool) -> None:
    good = [f"the {place} opens at {hour}, bring a coat" for place in ("park", "café", "museum") for hour in range(9)]
    bad = [f"BUY {count} pills now!!! cheap 💊 优惠" for count in range(27)]
    model = fit([*good, *bad], np.arange(54) >= 27, "spam", words)
    hashed = HashedRegression.of(model)
    assert hashed is not None
    texts = [*good, *bad, "", "a", "BUY " * 20_000, "你好，世界" * 3_000, *good]
    found = hashed.probabilities(texts)
    spam = list(model.classes_).index("spam")
    np.testing.assert_allclose(found if spam else 1 - found, model.predict_proba(texts)[:, spam], rtol=0, atol=1e-6)
    assert found.tolist() == [float(hashed.probabilities([text])[0]) for text in texts]
    assert found[::-1].tolist() == hashed.probabilities(texts[::-1]).tolist()
    assert found[27:54].min() > 0.5 > found[:27].max() if spam else found[27:54].max() < 0.5 < found[:27].min()


def test_any_other_pipeline_is_left_to_scikit_learn() -> None:
    texts, labels = ["aa bb", "cc dd", "ee ff"], ["x", "y", "x"]
    characters = VECTORISERS[0]

    def fitted(vectoriser: object, labels: list[str] = labels) -> object:
        return make_pipeline(vectoriser, LogisticRegression()).fit(texts, labels)

    assert HashedRegression.of(fitted(make_union(characters))) is not None
    assert HashedRegression.of(fitted(make_union(characters), ["x", "y", "z"])) is None
    assert HashedRegression.of(fitted(make_union(CountVectorizer()))) is None
    for change in (
        {"binary": False},
        {"norm": "l1"},
        {"alternate_sign": True},
        {"strip_accents": None},
        {"lowercase": False},
        {"analyzer": "char_wb"},
        {"ngram_range": (1, 4)},
    ):
        other = HashingVectorizer(**{**characters.get_params(), **change})
        assert HashedRegression.of(fitted(make_union(other))) is None, change
    default = HashingVectorizer(**{**VECTORISERS[2].get_params(), "token_pattern": r"(?u)\b\w\w+\b"})
    assert HashedRegression.of(fitted(make_union(default))) is None
