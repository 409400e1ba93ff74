from __future__ import annotations

import itertools
import random
import re
from pathlib import Path

import pytest

from benchmarks import texts

pytestmark = pytest.mark.usefixtures("shared_data")


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_documents_are_distinct_and_the_same_each_time(lang: str) -> None:
    count = len(texts.paragraphs(lang)) + 50
    first = texts.documents(lang, count, seed=3)
    assert first == texts.documents(lang, count, seed=3)
    assert first != texts.documents(lang, count, seed=4)
    assert len(set(first)) == count
    assert set(first) >= set(texts.paragraphs(lang))


def test_planted_near_duplicates_lie_in_their_band() -> None:
    base = texts.documents("zh", 60, seed=1)
    planted = texts.plant(base, 30, 0.80, 0.85, random.Random(7))
    assert len({index for index, _ in planted}) == 30
    for index, copy in planted:
        assert 0.80 <= texts.jaccard(texts.shingles(base[index]), texts.shingles(copy)) <= 0.85
    assert planted == texts.plant(base, 30, 0.80, 0.85, random.Random(7))


def test_jaccard_is_that_of_the_shingle_kernel() -> None:
    from components.core.textnorm import normalise_key
    from components.filter import shingles

    pairs = list(itertools.pairwise(["abcdefgh", "abcdefgx", "Ａbcdefgh", "x" * 3000, "一个句子，一个句子", ""]))
    for one, other in pairs:
        keys = [normalise_key(text)[: texts.SAMPLE] for text in (one, other)]
        kernel = shingles.jaccard(shingles.shingle_sets(keys), *map(_index, (0, 1)))[0]
        assert texts.jaccard(texts.shingles(one), texts.shingles(other)) == pytest.approx(kernel)


def _index(value: int):
    import numpy as np

    return np.array([value])


def test_pairs_repeat_earlier_ones_in_the_stated_share() -> None:
    rows = [texts.pair(5, index) for index in range(3000)]
    assert rows[:50] == [texts.pair(5, index) for index in range(50)]
    exact = len(rows) - len({(row["text"], row["text_pos"]) for row in rows})
    assert 0.06 < exact / len(rows) < 0.10
    queries = len(rows) - len({row["text"] for row in rows})
    assert 0.13 < queries / len(rows) < 0.20
    chinese = sum(bool(re.search("[一-鿿]", row["text_pos"])) for row in rows)
    assert 0.55 < chinese / len(rows) < 0.65


def test_written_rows_are_counted_in_bytes(tmp_path: Path) -> None:
    total = texts.write_jsonl(tmp_path / "rows.jsonl", iter([{"text": "中", "text_pos": "ab"}]))
    assert total == 5
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8") == '{"text": "中", "text_pos": "ab"}\n'
