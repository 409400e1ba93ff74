from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from components.core.records import record_table
from components.filter.contamination import Reference
from components.filter.duplicates import candidates, exact_duplicates, near_duplicates, pair_keys, survivors_of
from components.filter.judgement import judge
from components.filter.params import FilterParams
from components.filter.texts import ShardTexts

LONG = (
    "Parse the file that is named and give its rows as dictionaries; the keys are taken from the first line, and rows "
    "that are shorter than it are filled with the value of restval."
)


def survivors(rows: Sequence[dict[str, Any]], max_cluster: int = 100) -> list[int]:
    """Which row each row is merged into, by near-duplicates alone."""
    table = record_table([{"source": "test", **row} for row in rows])
    judged = judge(table, FilterParams(languages=()), Reference.of((), None))
    assert not judged.verdict.codes.any()
    texts = ShardTexts.of(table)

    def side_texts(wanted: np.ndarray[Any, Any], side: int) -> list[str]:
        return [texts.keys[index] for index in (texts.left, texts.right)[side][wanted]]

    return near_duplicates(
        judged.kinds, judged.left, judged.right, judged.ranks, judged.bands, side_texts, 0.85, max_cluster
    ).tolist()


def retrieval(query: str, passage: str, **more: Any) -> dict[str, Any]:
    return {"task": "retri_contrast", "text": query, "text_pos": passage, **more}


def cosent(left: str, right: str) -> dict[str, Any]:
    return {"task": "cosent", "text": left, "text_pair": right, "label": 1.0}


def merged(rows: Sequence[dict[str, Any]]) -> bool:
    return len(set(survivors(rows))) == 1


def test_pairs_whose_sides_are_both_near_duplicates_are_merged() -> None:
    assert merged([retrieval("csv DictReader", LONG), retrieval("csv DictReader", LONG + " See also writer.")])


def test_one_passage_with_different_queries_is_not_merged() -> None:
    assert not merged([retrieval("csv DictReader", LONG), retrieval("rows of a table as dictionaries", LONG)])


def test_one_query_with_different_passages_is_not_merged() -> None:
    assert not merged([retrieval("Return the name.", LONG), retrieval("Return the name.", LONG[::-1])])


def test_both_forms_of_an_object_survive() -> None:
    summary = (
        "Return a reader object which will process lines from the given file and give rows as dictionaries of text"
    )
    named = [
        retrieval("io." + summary, LONG, meta={"form": "named"}),
        retrieval(summary, LONG, meta={"form": "summary"}),
    ]
    assert not merged(named)
    assert merged([{**row, "meta": {"form": "named"}} for row in named])


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("怎么开通花呗", "怎么关通花呗"),
        ("我的花呗可以用来还信用卡吗", "我的花呗不可以用来还信用卡吗"),
        ("借款一万元分十二期每期还多少", "借款二万元分十二期每期还多少"),
        ("为什么我的微粒贷额度从三万降到了一万而且现在不能借", "为什么我的微粒贷额度从三万降到了一万而且现在不能提"),
    ],
)
def test_short_pairs_that_differ_in_one_character_are_not_merged(left: str, right: str) -> None:
    assert not merged([cosent(left, "客服电话是多少"), cosent(right, "客服电话是多少")])


def test_tasks_are_kept_apart() -> None:
    assert not merged([retrieval("csv reader" * 3, LONG), cosent("csv reader" * 3, LONG)])


def test_survivors_do_not_depend_on_order() -> None:
    rows = [retrieval("csv DictReader", LONG + " more" * (index % 7), url=str(index)) for index in range(12)]
    chosen = {rows[index]["url"] for index in survivors(rows)}
    again = {rows[::-1][index]["url"] for index in survivors(rows[::-1])}
    assert chosen == again
    assert len(chosen) < 12


def test_every_pair_of_near_duplicates_is_found() -> None:
    words = [f"word{index}" for index in range(2000)]
    bases = [" ".join(words[start : start + 60]) for start in range(0, 1800, 60)]
    rows = [
        retrieval(f"query number {index}" * 3, base + tail) for index, base in enumerate(bases) for tail in ("", "!")
    ]
    assert [a == b for a, b in zip(survivors(rows)[::2], survivors(rows)[1::2], strict=True)] == [True] * 30


def test_exact_duplicates_keep_one_row_by_rank() -> None:
    kinds = np.array([1, 1, 1, 2], np.uint64)
    left, right = np.array([5, 5, 6, 5], np.uint64), np.array([7, 7, 7, 7], np.uint64)
    ranks = np.array([9, 3, 1, 1], np.uint64)
    assert exact_duplicates(kinds, left, right, ranks).tolist() == [1, 1, 2, 3]
    empty = np.empty(0, np.uint64)
    assert exact_duplicates(empty, empty, empty, empty).tolist() == []


def test_sides_of_symmetric_pairs_are_interchangeable() -> None:
    left, right = np.array([1, 2, 1, 2], np.uint64), np.array([2, 1, 2, 1], np.uint64)
    first, second = pair_keys(left, right, np.array([True, True, False, False]))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(1, 2), (1, 2), (1, 2), (2, 1)]


def test_candidates_are_few_in_a_large_bucket_and_hold_it_together() -> None:
    count = 500
    ranks = np.arange(count, dtype=np.uint64)[::-1].copy()
    a, b = candidates(np.full((3, count), 8, np.uint64), ranks)
    assert len(a) <= 17 * count
    assert len({*zip(a.tolist(), b.tolist(), strict=True)}) == len(a)
    assert set(survivors_of(a, b, ranks, count).tolist()) == {count - 1}


def test_a_chain_is_one_cluster_until_it_is_too_long() -> None:
    chain = np.array(list(pairwise(range(9))))
    ranks = np.array([4, 0, 8, 1, 7, 2, 6, 3, 5], np.uint64)
    assert set(survivors_of(chain[:, 0], chain[:, 1], ranks, 9).tolist()) == {1}
    capped = survivors_of(chain[:, 0], chain[:, 1], ranks, 8)
    edges = {frozenset(edge) for edge in chain.tolist()}
    for row, survivor in enumerate(capped.tolist()):
        assert row == survivor or frozenset((row, survivor)) in edges
        assert capped[survivor] == survivor
    assert sorted(set(capped.tolist())) == [1, 3, 5, 7]


def test_clusters_equal_connected_components_of_random_graphs() -> None:
    choose = np.random.default_rng(2)
    a, b = choose.integers(0, 300, 200), choose.integers(0, 300, 200)
    ranks = choose.permutation(300).astype(np.uint64)
    labels = list(range(300))
    for one, two in zip(a.tolist(), b.tolist(), strict=True):
        old, new = labels[one], labels[two]
        labels = [new if label == old else label for label in labels]
    best = {label: min((i for i in range(300) if labels[i] == label), key=lambda i: ranks[i]) for label in labels}
    assert survivors_of(a, b, ranks, 1000).tolist() == [best[label] for label in labels]
