from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks import dirt, dirty, texts
from benchmarks.dirt import Mix
from components.core.textnorm import normalise_key

pytestmark = pytest.mark.usefixtures("shared_data")


@pytest.fixture(scope="module")
def mix() -> Mix:
    return dirt.mix(clean=300, planted=12)


def test_the_planted_share_is_as_stated(mix: Mix) -> None:
    kinds = Counter(dirt.kind_of(row["url"]) for row in mix.rows)
    assert kinds == {dirt.CLEAN: 300, **dict.fromkeys(dirt.KINDS, 12)}
    assert len({row["url"] for row in mix.rows}) == len(mix.rows)
    assert mix == dirt.mix(clean=300, planted=12)
    assert mix.rows != dirt.mix(clean=300, planted=12, seed=2).rows


def test_copies_are_of_clean_rows(mix: Mix) -> None:
    by_id = {row["url"]: row for row in mix.rows}
    assert Counter(map(dirt.kind_of, mix.origins)) == dict.fromkeys(dirt.COPIES, 12)
    for copy, origin in mix.origins.items():
        one, other = by_id[copy], by_id[origin]
        assert one["text"] == other["text"]
        similarity = texts.jaccard(texts.shingles(one["text_pos"]), texts.shingles(other["text_pos"]))
        low, high = (1, 1) if dirt.kind_of(copy) == "exact duplicate" else dirt.NEAR
        assert low <= similarity <= high


def test_no_planted_text_was_trained_on(mix: Mix) -> None:
    trained = {normalise_key(row["text"]) for row in [*dirt.spam_parts()[0], *texts.rows("cold/train.jsonl.gz")]}
    judged = {"insult", "advertisement", "inoffensive post (control)", "ham message (control)"}
    planted = {normalise_key(row["text_pos"]) for row in mix.rows if dirt.kind_of(row["url"]) in judged}
    assert len(planted) == 4 * 12
    assert not planted & trained


def test_recall_and_precision_of_a_kind() -> None:
    kinds = {"clean": 2, "mojibake": 3, "exact duplicate": 2}
    ids = [dirt.row_id(kind, number) for kind, count in kinds.items() for number in range(count)]
    made = Mix([{"text": "", "text_pos": "", "url": row} for row in ids], {ids[5]: ids[0], ids[6]: ids[1]})
    outcomes = ("exact_duplicate", "mojibake", "mojibake", "symbols", "", "", "")
    reasons = dict(zip(ids, outcomes, strict=True))
    assert dirty.judge("mojibake", made, reasons) == dirty.Found(3, found=1, otherwise=1, kept=1, dropped=2, right=1)
    # of the first pair the original went, of the second none: its original was lost to another reason
    copies = dirty.judge("exact duplicate", made, reasons)
    assert copies == dirty.Found(2, found=1, otherwise=0, kept=1, dropped=1, right=1)
    assert (copies.recall, copies.precision) == (0.5, 1.0)
    assert dirty.judge("insult", Mix(made.rows[5:6], {}), {ids[0]: ""}).precision is None


def test_every_row_is_found_again(mix: Mix, tmp_path: Path) -> None:
    result = dirty.measure(tmp_path, mix, {})
    found, funnel, clean = result.tables
    rows = {row[0]: row for row in found.rows}
    assert all(rows[kind][2] > 0.9 for kind in ("no passage", "mojibake", "exact duplicate", "near-duplicate"))
    assert funnel.rows[0][2] == len(mix.rows)
    assert sum(row[1] for row in clean.rows) == 300 - 24
