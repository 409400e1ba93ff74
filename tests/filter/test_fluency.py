from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from components.core.records import record_table
from components.filter.characters import class_counts
from components.filter.fluency import ENOUGH_CHARACTERS, Trigrams, sample, sampled, scripts_of

SUBJECTS = ["the train", "a tall woman", "our neighbour", "the committee", "every student", "the old harbour"]
VERBS = ["arrived late at", "was looking for", "paid nothing to reach", "never saw", "wrote about", "painted"]
OBJECTS = ["the central station", "a quiet village", "the second bridge", "some unknown shore", "the northern gate"]
CLAUSES = ["because it rained", "on a sunday morning", "before anyone noticed", "with great care", "again and again"]
HAN = "春江潮水连海平海上明月共潮生滟滟随波千万里何处江月明江流宛转绕芳甸月照花林皆似霰空里流霜不觉飞汀白沙看见"


def _sentences(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [
        f"{chance.choice(SUBJECTS)} {chance.choice(VERBS)} {chance.choice(OBJECTS)} {chance.choice(CLAUSES)}, "
        f"{chance.choice(SUBJECTS)} {chance.choice(VERBS)} {chance.choice(OBJECTS)}."
        for _ in range(count)
    ]


def _garbage() -> list[str]:
    chance = random.Random(7)
    shuffled = ["".join(chance.sample(text, len(text))) for text in _sentences(50, 8)]
    mashed = ["".join(chance.choice("asdfghjkl;qwertyuiop") for _ in range(40)) for _ in range(50)]
    return shuffled + mashed


def _table(texts: list[str]) -> object:
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return record_table([{"task": "retri_contrast", "text": a, "text_pos": b, "source": "s"} for a, b in pairs])


def _model(texts: list[str], share: float = 1.0) -> Trigrams:
    model = Trigrams(share)
    model.add(sample(_table(texts), share))
    return model


@pytest.fixture(scope="module")
def figures() -> Callable[[Trigrams, list[str]], tuple[np.ndarray, np.ndarray]]:
    return lambda model, texts: model.figures(texts, scripts_of(class_counts(texts)))


def test_garbage_is_misled_by_context_and_new_sentences_are_not(figures) -> None:
    model = _model(_sentences(4000, 1))
    bits, excess = figures(model, _sentences(400, 2))
    assert (excess < -1).all() and (bits < 4).all()
    _, bad = figures(model, _garbage())
    assert (bad > 0.5).mean() > 0.95


def test_characters_that_the_corpus_does_not_hold_cost_many_bits(figures) -> None:
    wrong = [text.encode("utf-8").hex().translate({c: 0x4E00 + 97 * c for c in range(48, 103)}) for text in _garbage()]
    model = _model(_sentences(4000, 1) + [HAN] * 2)
    model.characters[scripts_of(class_counts([HAN]))[0]] = ENOUGH_CHARACTERS
    bits, _ = figures(model, wrong)
    assert (bits > 15).all()


def test_garbage_in_the_sample_does_not_vouch_for_itself(figures) -> None:
    garbage = _garbage()
    model = _model(_sentences(4000, 1) + garbage)
    assert sampled(garbage, model.share).all()
    _, excess = figures(model, garbage)
    assert (excess > 0.5).mean() > 0.95


def test_figures_are_those_of_the_formula(figures) -> None:
    """Two texts of two characters, counted by hand: b follows a once and c follows a once."""
    model = _model(["ab", "ac"])
    model.characters[:] = ENOUGH_CHARACTERS
    model.share = 0.0  # judged with all counts
    total = ENOUGH_CHARACTERS + 10_000

    def chance(own: float, pair: float, triple: float, contexts: list[tuple[float, float]]) -> float:
        """Unigram, then two interpolations, each with (times the context was seen, kinds that followed)."""
        result = (own + 0.5) / total
        for count, (seen, kinds) in zip((pair, triple), contexts, strict=True):
            result = (count + (kinds + 1) * result) / (seen + kinds + 1)
        return result

    # (start) a b (end): the start was seen twice and a always followed; a twice, b and c followed; b once, then the end
    steps = [chance(2, 2, 2, [(2, 1), (2, 1)]), chance(1, 1, 1, [(2, 2), (2, 2)]), chance(2, 1, 1, [(1, 1), (1, 1)])]
    plain = [2.5 / total, 1.5 / total, 2.5 / total]
    bits, excess = figures(model, ["ab"])
    assert bits[0] == pytest.approx(-np.log2(steps).mean(), rel=1e-5)
    assert excess[0] == pytest.approx((-np.log2(steps) + np.log2(plain)).mean(), rel=1e-5)


def test_a_text_is_judged_alike_in_any_company_and_by_any_split_of_the_sample(figures) -> None:
    texts = _sentences(4000, 1) + [HAN[i : i + 20] for i in range(30)] * 200
    whole, share = _model(texts, 0.7), 0.7
    parts = Trigrams(share)
    for start in range(0, len(texts), 2500):
        parts.add(sample(_table(texts[start : start + 2500]), share))
    again = Trigrams.from_bytes(parts.to_bytes())
    assert again.to_bytes() == parts.to_bytes() and again.share == share
    probe = [*_sentences(20, 5), HAN[5:30], *_garbage()[:20]]
    together = figures(whole, probe)
    for index, text in enumerate(probe):
        alone = figures(whole, [text])
        assert np.array_equal([figure[index] for figure in together], np.ravel(alone), equal_nan=True), text


def test_a_script_with_too_little_text_is_not_judged(figures) -> None:
    model = _model([*_sentences(4000, 1), HAN, HAN[::-1]])
    bits, excess = figures(model, [HAN[::-1], _sentences(1, 3)[0]])
    assert np.isnan([bits[0], excess[0]]).all() and not np.isnan(bits[1])
