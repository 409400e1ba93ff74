from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from components.core.manifest import Dataset
from components.filter.duplicates import candidates, exact_duplicates, likes, pair_keys, survivors_of

LONG = (
    "Parse the file that is named and give its rows as dictionaries; the keys are taken from the first line, and rows "
    "that are shorter than it are filled with the value of restval."
)


Merged = Callable[[Sequence[dict[str, Any]]], bool]
Survivors = Callable[[Sequence[dict[str, Any]]], list[int]]


@pytest.fixture
def survivors(filtered: Callable[..., Dataset]) -> Survivors:
    """The numbers of the rows that survive deduplication, where nothing else drops a row."""

    def filter_rows(rows: Sequence[dict[str, Any]]) -> list[int]:
        numbered = [{"source": "test", "url": str(number), **row} for number, row in enumerate(rows)]
        result = filtered(numbered, languages=[])
        assert {row["reason"] for row in result.read_rejected().to_pylist()} <= {"exact_duplicate", "near_duplicate"}
        return sorted(map(int, result.read()["url"].to_pylist()))

    return filter_rows


@pytest.fixture
def merged(survivors: Survivors) -> Merged:
    return lambda rows: len(survivors(rows)) == 1


def retrieval(query: str, passage: str, **more: Any) -> dict[str, Any]:
    return {"task": "retri_contrast", "text": query, "text_pos": passage, **more}


def cosent(left: str, right: str) -> dict[str, Any]:
    return {"task": "cosent", "text": left, "text_pair": right, "label": 1.0}


def test_pairs_whose_sides_are_both_near_duplicates_are_merged(merged: Merged) -> None:
    assert merged([retrieval("csv DictReader", LONG), retrieval("csv DictReader", LONG + " See also writer.")])


def test_one_passage_with_different_queries_is_not_merged(merged: Merged) -> None:
    assert not merged([retrieval("csv DictReader", LONG), retrieval("rows of a table as dictionaries", LONG)])


def test_one_query_with_different_passages_is_not_merged(merged: Merged) -> None:
    assert not merged([retrieval("Return the name.", LONG), retrieval("Return the name.", LONG[::-1])])


def test_both_forms_of_an_object_survive(merged: Merged) -> None:
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
def test_short_pairs_that_differ_in_one_character_are_not_merged(merged: Merged, left: str, right: str) -> None:
    assert not merged([cosent(left, "客服电话是多少"), cosent(right, "客服电话是多少")])


def test_tasks_are_kept_apart(merged: Merged) -> None:
    assert not merged([retrieval("csv reader" * 3, LONG), cosent("csv reader" * 3, LONG)])


def test_survivors_do_not_depend_on_order(filtered: Callable[..., Dataset]) -> None:
    rows = [
        {"source": "test", **retrieval("csv DictReader", LONG + " more" * (index % 7), url=str(index))}
        for index in range(12)
    ]
    chosen, again = (set(filtered(given, languages=[]).read()["url"].to_pylist()) for given in (rows, rows[::-1]))
    assert chosen == again
    assert len(chosen) < 12


def test_every_pair_of_near_duplicates_is_found(survivors: Survivors) -> None:
    words = [f"word{index}" for index in range(2000)]
    bases = [" ".join(words[start : start + 60]) for start in range(0, 1800, 60)]
    rows = [
        retrieval(f"query number {index}" * 3, base + tail) for index, base in enumerate(bases) for tail in ("", "!")
    ]
    assert [number // 2 for number in survivors(rows)] == list(range(30))


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
    rows = np.arange(count, dtype=np.uint64)
    ((a, b),) = candidates(np.full(3 * count, 8, np.uint64), np.tile(ranks, 3), np.tile(rows, 3))
    assert len(a) <= 5 * count
    assert len({*zip(a.tolist(), b.tolist(), strict=True)}) == len(a)
    assert set(survivors_of(a.astype(np.int64), b.astype(np.int64), ranks, count).tolist()) == {count - 1}


def test_candidates_are_all_pairs_of_rows_that_share_a_hash_in_small_buckets() -> None:
    choose = np.random.default_rng(4)
    hashes, ranks = choose.integers(0, 800, 2000).astype(np.uint64), choose.permutation(2000).astype(np.uint64)
    rows = np.arange(2000, dtype=np.uint64)
    found = {pair for a, b in candidates(hashes, ranks, rows) for pair in zip(a.tolist(), b.tolist(), strict=True)}
    same = np.triu(hashes[:, None] == hashes, 1)
    assert found == {*zip(*(ends.tolist() for ends in np.nonzero(same)), strict=True)}


def test_a_row_is_like_its_survivor_or_a_row_on_the_way_to_it() -> None:
    a, b = np.array([0, 1, 2, 4]), np.array([1, 2, 3, 5])  # a chain of four, a pair, and row 6 alone
    ranks = np.array([3, 1, 2, 0, 9, 8, 7], np.uint64)
    chosen = survivors_of(a, b, ranks, 100)
    assert chosen.tolist() == [3, 3, 3, 3, 5, 5, 6]
    assert likes(a, b, chosen, ranks).tolist() == [1, 2, 3, 2, 5, 4, 6]


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
