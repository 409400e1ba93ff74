"""The batch plan: pure, without duplicates in a batch, proportional."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.plan import BatchPlan, TaskRows, interleave


def task(name: str, rows: int, batch_size: int, kinds: int | None = None, seed: int = 0) -> TaskRows:
    """Rows with two text ids each, drawn from ``kinds`` ids a side; none that must be distinct where kinds is None."""
    rng = np.random.default_rng(seed)
    if kinds is None:
        return TaskRows(name, np.zeros((rows, 0), np.uint64), batch_size, np.ones(rows, np.int64))
    left, right = rng.integers(0, kinds, rows), rng.integers(kinds, 2 * kinds, rows)
    texts = np.stack([left, right], axis=1).astype(np.uint64)
    return TaskRows(name, texts, batch_size, np.ones(rows, np.int64))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 90),
    batch_size=st.integers(1, 16),
    kinds=st.integers(1, 60),
    seed=st.integers(0, 5),
)
def test_batches_are_full_distinct_and_disjoint(rows: int, batch_size: int, kinds: int, seed: int) -> None:
    given_rows = task("pairs", rows, batch_size, kinds, seed)
    plan = BatchPlan([given_rows], seed)
    seen: list[int] = []
    sizes = []
    for step in range(plan.steps(0)):
        together = plan.batches(0, step)[0].rows
        texts = given_rows.texts[together].ravel().tolist()
        assert len(set(texts)) == len(texts)
        seen += together.tolist()
        sizes.append(len(together))
    assert len(set(seen)) == len(seen)
    assert sizes == [batch_size] * len(sizes) or (len(sizes) == 1 and 0 < sizes[0] < batch_size)


def test_plan_depends_on_seed_and_epoch_alone() -> None:
    tasks = [task("pairs", 200, 16, 150), task("graded", 90, 8)]
    first, second = BatchPlan(tasks, 7), BatchPlan(tasks, 7)
    assert first.batches(1, 3)[0].rows.tolist() == second.batches(1, 3)[0].rows.tolist()  # without the steps before
    assert first.batches(0, 3)[0].rows.tolist() != first.batches(1, 3)[0].rows.tolist()
    assert first.batches(0, 3)[0].rows.tolist() != BatchPlan(tasks, 8).batches(0, 3)[0].rows.tolist()


def test_batches_hold_one_task_and_tasks_keep_their_proportion() -> None:
    plan = BatchPlan([task("pairs", 300, 10), task("graded", 100, 10), task("empty", 0, 10)], 0)
    assert plan.describe() == {"pairs": 30, "graded": 10}
    names = [plan.batches(0, step)[0].task for step in range(plan.steps(0))]
    for start in range(0, 40, 4):
        assert sorted(names[start : start + 4]) == ["graded", "pairs", "pairs", "pairs"]


def test_last_incomplete_batch_is_dropped_unless_it_is_the_only_one() -> None:
    assert BatchPlan([task("pairs", 25, 10)], 0).steps(0) == 2
    assert BatchPlan([task("pairs", 7, 10)], 0).batches(0, 0)[0].rows.size == 7


def test_one_repeated_text_leaves_one_row_a_batch() -> None:
    rows = TaskRows("pairs", np.ones((50, 2), np.uint64) * np.array([[1, 2]], np.uint64), 8, np.ones(50, np.int64))
    plan = BatchPlan([rows], 0)
    assert plan.steps(0) == 1
    assert plan.batches(0, 0)[0].rows.size == 1


def test_a_repeated_row_is_drawn_that_often_in_every_epoch_and_never_twice_in_a_batch() -> None:
    texts = np.arange(400, dtype=np.uint64).reshape(200, 2)
    repeat = np.where(np.arange(200) < 4, 3, 1)
    for rows in (TaskRows("pairs", texts, 8, repeat), TaskRows("graded", texts[:, :0], 8, repeat)):
        plan = BatchPlan([rows], 5)
        for epoch in range(3):
            batches = [plan.batches(epoch, step)[0].rows.tolist() for step in range(plan.steps(epoch))]
            assert batches == [
                BatchPlan([rows], 5).batches(epoch, step)[0].rows.tolist() for step in range(len(batches))
            ]
            drawn = np.bincount(np.concatenate(batches), minlength=200)
            assert drawn.tolist() == repeat.tolist()
            if rows.texts.shape[1]:
                assert all(len(set(batch)) == 8 for batch in batches)


def test_interleave_spreads_evenly() -> None:
    assert interleave([2, 1, 0]) == [(0, 0), (1, 0), (0, 1)]
