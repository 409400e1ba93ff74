from __future__ import annotations

import numpy as np
import pytest

from components.filter.shuffle_plan import BAND_BYTES, BAND_MEMORY, FILL, KEY_BYTES, KEY_MEMORY, plan

GIB = 1 << 30
ROWS, SHARDS = 750_000_000, 10_000


def test_a_small_corpus_is_one_task_of_each_phase_but_a_group_for_every_shard() -> None:
    small = plan(100_000, 15, 0.85, GIB)
    assert (small.groups, small.key_partitions, small.band_partitions, small.edge_partitions) == (15, 1, 1, 1)
    assert small.peak_task < GIB
    assert plan(300_000, 500, 0.85, GIB).groups == 64, "as many as pods may share"


@pytest.mark.parametrize("rows", [0, 1, 85_000, 10**6, 10**8, ROWS])
@pytest.mark.parametrize("budget", [1 << 20, GIB, 16 * GIB])
@pytest.mark.parametrize("threshold", [None, 0.8, 0.95])
def test_tasks_plan_to_leave_room_in_the_budget(rows: int, budget: int, threshold: float | None) -> None:
    made = plan(rows, 500, threshold, budget)
    assert made.peak_task <= FILL * budget + 8192  # a task has at least one pair of rows
    assert made.bands == (0 if threshold is None else made.bands) <= 128
    assert (made.bands_shuffled, made.texts_shuffled) == (0, 0) or threshold is not None


@pytest.mark.parametrize(("shards", "budget"), [(1, GIB), (7, 1 << 20), (500, 1 << 24), (10_000, GIB)])
def test_groups_are_runs_that_hold_every_shard_once(shards: int, budget: int) -> None:
    made = plan(200_000, shards, 0.85, budget)
    runs = [made.shards_of(group) for group in range(made.groups)]
    assert [shard for run in runs for shard in run] == list(range(shards))
    assert all(run for run in runs)
    assert [made.group_of(shard) for shard in range(shards)] == [
        group for group in range(made.groups) for _ in runs[group]
    ]


def test_partitions_of_750_million_rows_stay_within_the_budget_in_spite_of_skew() -> None:
    """Clusters of duplicates have sizes by Zipf's law and hold 30 % of the rows; all others are spread evenly.

    A cluster of exact duplicates has one key, so that it is in one partition whole; one of near-duplicates, at its
    worst, has one bucket in every band.
    """
    budget = 4 * GIB
    made = plan(ROWS, SHARDS, 0.85, budget)
    choose = np.random.default_rng(750)
    share = 1 / np.arange(1, 10_000_001)
    clusters = (0.3 * ROWS * share / share.sum()).astype(np.int64)
    large, rest = clusters[:1_000_000], ROWS - clusters[:1_000_000].sum()
    assert large[0] > 13_000_000

    def loads(partitions: int, records: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Rows of each partition when every row gives `records` records, each of one band."""
        result = choose.multinomial(rest * records, np.full(partitions, 1 / partitions)).astype(float)
        for _ in range(records):
            result += np.bincount(choose.integers(0, partitions, len(large)), large, partitions)
        assert result.sum() == ROWS * records
        return result

    keys = loads(made.key_partitions, 1) * KEY_BYTES * KEY_MEMORY
    bands = loads(made.band_partitions, made.bands) * BAND_BYTES * BAND_MEMORY
    for memory, planned in ((keys, made.key_task), (bands, made.band_task)):
        assert memory.mean() == pytest.approx(planned, rel=0.01)
        assert memory.max() < budget
    # so that 750 million rows are at most 2,000 files a phase, each read in pieces of some hundred kilobytes
    assert max(made.groups, made.band_partitions, made.edge_partitions) < 2000
    assert made.bands_shuffled / made.groups / made.band_partitions > 400_000
    assert made.components < 64 * GIB
