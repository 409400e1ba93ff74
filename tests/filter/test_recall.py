"""What deduplication finds and what it removes, against Jaccard similarities counted with Python's own sets."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from components.core.manifest import Dataset
from components.core.textnorm import normalise_key

Filter = Callable[..., Dataset]
WORDS = 4000


def shingles(text: str, unit: str) -> set[tuple[str, ...]]:
    key = normalise_key(text)
    units = [*"\0\0\0\0", *(key.split() if unit == "word" else key), *"\0\0\0\0"]
    return {tuple(units[start : start + 5]) for start in range(len(units) - 4)}


def similarity(left: str, right: str, unit: str) -> float:
    one, other = shingles(left, unit), shingles(right, unit)
    return len(one & other) / len(one | other)


def changed(text: str, unit: str, choose: random.Random) -> str:
    """A copy of a text, changed word by word until its Jaccard is between 0.80 and 0.85."""
    while True:
        words = text.split()
        while (found := similarity(text, " ".join(words), unit)) > 0.85:
            words[choose.randrange(len(words))] = f"new{choose.randrange(WORDS)}"
        if found >= 0.80:
            return " ".join(words)


def pair(text: str, index: int) -> dict[str, Any]:
    query = f"query {index} of many"
    return {"task": "retri_contrast", "text": query, "text_pos": text, "source": "planted", "meta": {"pair": index}}


@pytest.mark.parametrize(("unit", "threshold"), [("character", 0.80), ("character", 0.75), ("word", 0.80)])
def test_planted_pairs_of_jaccard_80_to_85_are_found(filtered: Filter, unit: str, threshold: float) -> None:
    choose = random.Random(80)
    rows = []
    for index in range(300):
        text = " ".join(f"word{choose.randrange(WORDS)}" for _ in range(120))
        rows += [pair(text, index), pair(changed(text, unit, choose), index)]
    choose.shuffle(rows)
    result = filtered(rows, per_shard=100, languages=[], near_duplicates={"threshold": threshold, "shingles": unit})
    removed = result.read_rejected().to_pylist()
    assert {row["reason"] for row in removed} == {"near_duplicate"}
    assert len(removed) >= 0.97 * 300
    assert len({row["meta"] for row in result.read(["meta"]).to_pylist()}) == 300  # one of each pair stays


@pytest.mark.parametrize("max_cluster", [5, 100])
def test_every_removed_row_is_like_the_row_that_its_detail_names(filtered: Filter, max_cluster: int) -> None:
    choose = random.Random(7)
    rows = []
    for template in range(20):  # sources of templates: rows drift apart, one word at a time
        words = [f"word{choose.randrange(WORDS)}" for _ in range(60)]
        for step in range(40):
            words[choose.randrange(60)] = f"new{choose.randrange(WORDS)}"
            text = " ".join(words)
            rows.append({**pair(text, template), "text_pos": text, "url": f"{template}/{step}"})
    choose.shuffle(rows)
    result = filtered(rows, per_shard=150, languages=[], near_duplicates={"threshold": 0.8, "max_cluster": max_cluster})
    kept, rejected = result.read().to_pylist(), result.read_rejected().to_pylist()
    texts = {row["id"]: row["text_pos"] for row in kept}
    surviving = set(texts)
    texts |= {row["id"]: json.loads(row["record"])["text_pos"] for row in rejected}
    direct = 0
    for row in rejected:
        survivor, _, like = row["detail"].removeprefix("of ").partition(", like ")
        assert int(survivor) in surviving
        assert similarity(texts[row["id"]], texts[int(like or survivor)], "character") >= 0.8
        direct += not like
    assert len(rejected) > 300
    # a cluster above the cap only loses rows verified against one that it keeps
    assert direct == len(rejected) if max_cluster == 5 else direct < len(rejected)
