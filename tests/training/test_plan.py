"""The batch plan: pure, without duplicates in a batch, in the proportions that the schedule asks for."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.errors import UsageError
from components.training.filling import fill_batches, nearest_clash
from components.training.plan import (
    BatchPlan,
    Roles,
    Sampling,
    Schedule,
    TaskRows,
    Turns,
    apportion,
    check_world,
    interleave,
    plan_lines,
)

PROJECT = Path(__file__).resolve().parents[2]
RETRIEVAL, SIMILARITY, CLASSES = "retri_contrast", "cosent", "cls_contrast"


def task(
    name: str, rows: int, batch_size: int, kinds: int | None = None, seed: int = 0, repeat: int = 1, **more: Any
) -> TaskRows:
    """Rows with two text ids each, drawn from ``kinds`` ids a side; none that must be distinct where kinds is None."""
    rng = np.random.default_rng(seed)
    repeats = rng.integers(1, repeat + 1, rows)
    if kinds is None:
        return TaskRows(name, np.zeros((rows, 0), np.int64), batch_size, repeats, **more)
    left, right = rng.integers(0, kinds, rows), rng.integers(kinds, 2 * kinds, rows)
    return TaskRows(name, np.stack([left, right], axis=1), batch_size, repeats, **more)


def batches_of(plan: BatchPlan, name: str, epoch: int = 0) -> list[list[int]]:
    """The rows of every batch of a task in an epoch."""
    steps = (plan.batches(epoch, turn) for turn in range(plan.steps(epoch)))
    return [batch.rows.tolist() for step in steps for batch in step if batch.task == name]


def naive_batches(texts: np.ndarray, batch_size: int, order: list[int]) -> list[list[int]]:
    """What fill_batches promises, said plainly: the first rows in order that do not clash, those that waited first."""
    batches: list[list[int]] = []
    waiting = list(order)
    while waiting:
        seen: set[int] = set()
        chosen = []
        for row in waiting:
            keys = set(texts[row].tolist())
            if len(chosen) < batch_size and not keys & seen:
                seen |= keys
                chosen.append(row)
        if len(chosen) < batch_size and batches:
            break
        batches.append(chosen)
        waiting = [row for row in waiting if row not in chosen]
        if len(chosen) < batch_size:
            break
    return batches


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 90),
    batch_size=st.integers(1, 16),
    kinds=st.integers(1, 60),
    wide=st.booleans(),
    seed=st.integers(0, 5),
)
def test_batches_are_those_of_the_plain_rule(rows: int, batch_size: int, kinds: int, wide: bool, seed: int) -> None:
    given_rows = task("pairs", rows, batch_size, kinds, seed)
    if wide:  # ids that fill 64 bits
        given_rows = TaskRows(
            "pairs", given_rows.texts.astype(np.uint64) << np.uint64(50), batch_size, given_rows.repeat
        )
    order = np.random.default_rng([seed, 0, 0]).permutation(rows).tolist()
    assert batches_of(BatchPlan([given_rows], seed), "pairs") == naive_batches(given_rows.texts, batch_size, order)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 90),
    batch_size=st.integers(1, 16),
    kinds=st.integers(1, 60),
    cost=st.integers(1, 5),
    spare=st.integers(0, 4),
    seed=st.integers(0, 5),
)
def test_a_budget_of_equal_rows_is_a_number_of_rows(
    rows: int, batch_size: int, kinds: int, cost: int, spare: int, seed: int
) -> None:
    texts = task("pairs", rows, batch_size, kinds, seed).texts
    plain = fill_batches(texts, batch_size, np.random.default_rng(seed))
    budget = cost * batch_size + min(spare, cost - 1)
    counted = fill_batches(texts, 1000, np.random.default_rng(seed), np.full(rows, cost), budget)
    assert counted.rows.tolist() == plain.rows.tolist()
    assert counted.edges.tolist() == plain.edges.tolist()


@settings(max_examples=80, deadline=None)
@given(
    sampling=st.sampled_from(["proportional", "round_robin", "weighted", "balanced"]),
    rows=st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30)),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    kinds=st.integers(2, 60),
    repeat=st.integers(1, 3),
    budget=st.one_of(st.none(), st.integers(9, 60)),
    same_source=st.booleans(),
    seed=st.integers(0, 3),
)
def test_no_text_twice_in_a_batch_and_no_row_more_often_than_its_share(
    sampling: Sampling,
    rows: tuple[int, int, int],
    sizes: tuple[int, int, int],
    kinds: int,
    repeat: int,
    budget: int | None,
    same_source: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    tasks = [
        task(
            name,
            count,
            size,
            kinds if name == RETRIEVAL else None,
            seed,
            repeat,
            tokens=rng.integers(1, 10, count),
            group=rng.integers(0, 3, count),
        )
        for name, count, size in zip((RETRIEVAL, SIMILARITY, CLASSES), rows, sizes, strict=True)
    ]
    schedule = Schedule(
        sampling, {"retrieval": 2, "similarity": 1, CLASSES: 0.5}, Roles(2, 2, 1), budget, same_source, "finetune"
    )
    plan, again = BatchPlan(tasks, seed, schedule), BatchPlan(tasks, seed, schedule)
    for each in tasks:
        batches = batches_of(plan, each.name, 1)
        drawn = np.bincount(np.concatenate([np.zeros(0, int), *batches]).astype(int), minlength=len(each))
        redrawn = plan.describe(1)["tasks"][each.name]["passes"]
        assert (drawn <= each.repeat * max(1, np.ceil(redrawn))).all()
        assert plan.counts(1)[each.name] == len(batches)
        for batch in batches:
            assert budget is None or each.tokens[batch].sum() <= budget
            assert len(batch) <= each.batch_size
            assert not same_source or len(set(each.group[batch].tolist())) == 1
            texts = [text for row in batch for text in set(each.texts[row].tolist())]
            assert len(set(texts)) == len(texts)
    # any step can be asked for alone, as after a resume
    for turn in reversed(range(plan.steps(1))):
        for one, other in zip(plan.batches(1, turn), again.batches(1, turn), strict=True):
            assert (one.task, one.role, one.rows.tolist()) == (other.task, other.role, other.rows.tolist())


@pytest.mark.parametrize("kinds", [None, 4000])
def test_an_epoch_draws_each_row_as_often_as_it_repeats_but_for_the_rest(kinds: int | None) -> None:
    rows = task("pairs", 400, 7, kinds, repeat=3)
    plan = BatchPlan([rows], 5)
    for epoch in range(2):
        drawn = np.bincount(np.concatenate(batches_of(plan, "pairs", epoch)), minlength=400)
        assert (drawn <= rows.repeat).all()
        left_over = int((rows.repeat - drawn).sum())
        assert left_over < 7
        assert plan.describe(epoch)["tasks"]["pairs"]["left_over"] == left_over


def test_plan_depends_on_seed_and_epoch_alone() -> None:
    tasks = [task("pairs", 200, 16, 150), task("graded", 90, 8)]
    first, second = BatchPlan(tasks, 7), BatchPlan(tasks, 7)
    assert first.batches(1, 3)[0].rows.tolist() == second.batches(1, 3)[0].rows.tolist()
    assert first.batches(0, 3)[0].rows.tolist() != first.batches(1, 3)[0].rows.tolist()
    assert first.batches(0, 3)[0].rows.tolist() != BatchPlan(tasks, 8).batches(0, 3)[0].rows.tolist()


DIGEST = """
import hashlib, numpy as np
from components.training.plan import BatchPlan, Roles, Schedule, TaskRows
rng = np.random.default_rng(3)
tasks = [
    TaskRows("retri_contrast", rng.integers(0, 300, (500, 2)), 8, np.ones(500, np.int64)),
    TaskRows("cosent", np.zeros((60, 0), np.int64), 16, np.ones(60, np.int64)),
]
digest = hashlib.sha256()
weights = {"cosent": 2, "retrieval": 1}
for schedule in (Schedule(), Schedule("balanced", roles=Roles(3, 1)), Schedule("weighted", weights)):
    plan = BatchPlan(tasks, 11, schedule)
    for turn in range(plan.steps(2)):
        for batch in plan.batches(2, turn):
            digest.update(f"{batch.task} {batch.role} {batch.rows.tolist()}".encode())
print(digest.hexdigest())
"""


def test_plan_is_the_same_in_every_process() -> None:
    digests = set()
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": seed}
        result = subprocess.run(
            [sys.executable, "-c", DIGEST], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(result.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == len(hashlib.sha256().hexdigest())


def test_batches_hold_one_task_and_tasks_keep_their_proportion() -> None:
    plan = BatchPlan([task("pairs", 300, 10), task("graded", 100, 10), task("empty", 0, 10)], 0)
    assert plan.counts() == {"pairs": 30, "graded": 10}
    names = [batch.task for step in range(plan.steps(0)) for batch in plan.batches(0, step)]
    for start in range(0, 40, 4):
        assert sorted(names[start : start + 4]) == ["graded", "pairs", "pairs", "pairs"]


def test_round_robin_alternates_until_a_task_is_used_up() -> None:
    plan = BatchPlan([task("pairs", 300, 10), task("graded", 45, 10)], 0, Schedule("round_robin"))
    assert [plan.batches(0, turn)[0].task for turn in range(plan.steps(0))] == ["pairs", "graded"] * 4
    assert plan.describe()["tasks"]["pairs"]["left_over"] == 260
    kept = [{row for batch in batches_of(plan, "pairs", epoch) for row in batch} for epoch in (0, 1)]
    assert kept[0] != kept[1]  # what one epoch leaves is drawn in another


def test_weighted_shares_the_steps_and_draws_a_small_task_again_in_a_new_order() -> None:
    weights = {"pairs": 1.0, "graded": 3.0}
    plan = BatchPlan([task("pairs", 60, 10), task("graded", 20, 10)], 0, Schedule("weighted", weights))
    assert plan.counts() == {"pairs": 2, "graded": 6}
    graded = batches_of(plan, "graded")
    passes = [graded[0] + graded[1], graded[2] + graded[3], graded[4] + graded[5]]
    assert [sorted(each) for each in passes] == [list(range(20))] * 3
    assert passes[0] != passes[1] != passes[2]


def test_task_of_weight_zero_is_left_out() -> None:
    tasks = [task(RETRIEVAL, 60, 10), task(SIMILARITY, 20, 10)]
    plan = BatchPlan(tasks, 0, Schedule("weighted", {"retrieval": 1, "similarity": 0}))
    assert plan.counts() == {RETRIEVAL: 6}
    assert plan.describe()["unused"] == {SIMILARITY: 20}


def test_balanced_step_holds_every_task_and_each_role_its_own_rows() -> None:
    tasks = [task(SIMILARITY, 50, 8), task(RETRIEVAL, 40, 4, 4000), task(CLASSES, 30, 5)]
    plan = BatchPlan(tasks, 1, Schedule("balanced", roles=Roles(4, 2)))
    assert plan.steps(0) == 10
    assert plan.counts() == {RETRIEVAL: 10, SIMILARITY: 20}
    for turn in range(10):
        assert [(batch.task, batch.role) for batch in plan.batches(0, turn)] == [
            (RETRIEVAL, 0), (SIMILARITY, 0), (SIMILARITY, 1),
        ]  # fmt: skip
    graded = batches_of(plan, SIMILARITY)
    for start in (0, 6, 12):  # six full batches a pass, then the next order
        together = [row for batch in graded[start : start + 6] for row in batch]
        assert len(together) == len(set(together)) == 48
    assert graded[0] != graded[6]
    assert plan.describe()["unused"] == {CLASSES: 30}


def test_last_incomplete_batch_is_dropped_unless_it_is_the_only_one() -> None:
    assert BatchPlan([task("pairs", 25, 10)], 0).steps(0) == 2
    assert BatchPlan([task("pairs", 7, 10)], 0).batches(0, 0)[0].rows.size == 7


def test_one_repeated_text_leaves_one_row_a_batch() -> None:
    rows = TaskRows("pairs", np.ones((50, 2), np.int64) * np.array([[1, 2]]), 8, np.ones(50, np.int64))
    plan = BatchPlan([rows], 0)
    assert plan.steps(0) == 1
    assert plan.batches(0, 0)[0].rows.size == 1


def test_token_budget_fills_batches_with_rows_of_similar_length() -> None:
    tokens = np.random.default_rng(0).integers(1, 200, 3000)
    plan = BatchPlan([task("pairs", 3000, 200, 10_000, tokens=tokens)], 0, Schedule(batch_tokens=1000))
    batches = batches_of(plan, "pairs")
    filled = [int(tokens[batch].sum()) for batch in batches]
    assert max(filled) <= 1000
    assert np.mean(filled) > 900
    spreads = [np.ptp(tokens[batch]) for batch in batches]
    assert np.median(spreads) < 20  # of 199
    means = [tokens[batch].mean() for batch in batches]
    assert np.corrcoef(means[:-1], means[1:])[0, 1] < 0.3  # short and long batches alternate at random
    capped = BatchPlan([task("pairs", 3000, 20, 10_000, tokens=tokens)], 0, Schedule(batch_tokens=1000))
    assert max(map(len, batches)) > 20 == max(map(len, batches_of(capped, "pairs")))


def test_same_source_batches_alternate_at_random() -> None:
    group = np.repeat([0, 1, 2], [100, 60, 3])
    plan = BatchPlan([task("pairs", 163, 10, 5000, group=group)], 0, Schedule(same_source=True))
    sources = [set(group[batch].tolist()) for batch in batches_of(plan, "pairs")]
    assert sorted(sources, key=min) == [{0}] * 10 + [{1}] * 6 + [{2}]  # a small source makes one smaller batch
    assert sources != sorted(sources, key=min)


def test_interleave_spreads_evenly_and_apportion_shares_all() -> None:
    assert interleave([2, 1, 0]).tolist() == [[0, 0], [1, 0], [0, 1]]
    assert interleave([]).shape == (0, 2)
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(7, [0, 2.5, 1]) == [0, 5, 2]


def test_turns_count_through_epochs_of_unequal_length() -> None:
    turns = Turns([2, 0, 3])
    assert list(turns) == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]
    assert turns[-1] == turns[4] == (2, 2)
    assert turns[1:3] == [(0, 1), (2, 0)]
    assert len(Turns([])) == 0


def test_nearest_clash_is_the_last_row_before_that_shares_a_text() -> None:
    texts = np.array([[1, 2], [3, 3], [2, 4], [5, 1]])
    assert nearest_clash(texts, np.array([0, 1, 2, 3], np.int32)).tolist() == [-1, -1, 0, 0]
    assert nearest_clash(texts, np.array([3, 2, 1, 0], np.int32)).tolist() == [-1, -1, -1, 1]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (Schedule("weighted", {"pairs": 1}), r"schedule.weights: no task is named pairs; allowed: retrieval, simil"),
        (Schedule("weighted", {"retrieval": 1}), r"schedule.weights: no weight for similarity"),
        (Schedule("weighted", {"retrieval": 1, "similarity": -1}), r"schedule.weights.similarity: -1; allowed"),
        (
            Schedule("weighted", {"retrieval": 0, "similarity": 0, "classes": 1}),
            r"schedule.weights: 0 for every task that has records \(retrieval, similarity\)",
        ),
        (Schedule("balanced", roles=Roles(4, 1, 1)), r"schedule.roles.classes: 1 roles for an empty task"),
        (Schedule("balanced", roles=Roles(0, 1)), r"schedule.roles.retrieval: 0"),
        (Schedule("balanced", roles=Roles(1, -1)), r"schedule.roles.similarity: -1"),
        (Schedule(batch_tokens=5, section="finetune"), r"finetune.schedule.batch_tokens: 5 holds not every row.*9 or"),
    ],
)
def test_schedule_that_does_not_fit_the_tasks_is_refused(schedule: Schedule, message: str) -> None:
    tasks = [
        task(RETRIEVAL, 20, 4, 90, tokens=np.full(20, 9)),
        task(SIMILARITY, 9, 4, tokens=np.full(9, 2)),
        task(CLASSES, 0, 4, tokens=np.zeros(0, np.int64)),
    ]
    with pytest.raises(UsageError, match=message):
        BatchPlan(tasks, 0, schedule)


def test_records_of_a_batch_are_found_by_their_ids() -> None:
    plan = BatchPlan([task("pairs", 20, 4, 90, ids=np.arange(20, dtype=np.uint64) + 2**63)], 0)
    batch = plan.batches(0, 1)[0]
    assert plan.names(batch) == [f"record {2**63 + row}" for row in batch.rows.tolist()]
    bare = BatchPlan([task("pairs", 20, 4, 90)], 0)
    assert bare.names(batch) == [f"row {row}" for row in batch.rows.tolist()]


def test_world_must_divide_batches_or_roles() -> None:
    tasks = [task(RETRIEVAL, 20, 6, 90), task(SIMILARITY, 9, 4, tokens=np.full(9, 2))]
    plan = BatchPlan(tasks, 0, Schedule(section="finetune"))
    check_world(plan, 2)
    with pytest.raises(UsageError, match=r"finetune.retrieval.batch_size: 6 rows do not divide among 4 processes"):
        check_world(plan, 4)
    balanced = BatchPlan(tasks, 0, Schedule("balanced", roles=Roles(3, 1)))
    check_world(balanced, 4)
    with pytest.raises(UsageError, match=r"schedule.roles: 4 roles do not spread over 3 processes"):
        check_world(balanced, 3)


def test_lines_tell_people_the_plan() -> None:
    tasks = [task(SIMILARITY, 20, 8), task(RETRIEVAL, 42, 4, 4000), task(CLASSES, 30, 5)]
    lines = plan_lines(BatchPlan(tasks, 1, Schedule("balanced", roles=Roles(4, 1))), epochs=2, world=5)
    assert lines[0] == "balanced schedule: 20 steps in 2 epochs, 10 in the first"
    assert lines[1] == "retri_contrast: 42 rows in 10 batches of 4 rows, 4 roles in every step; 2 rows left over"
    assert lines[2].startswith("cosent: 20 rows in 10 batches of 8 rows, 1 role in every step, drawn 5.0 times")
    assert lines[3] == "cls_contrast: 30 rows without a role, not trained on"
    assert lines[4].startswith("step 0: retri_contrast × 4 [")
    assert lines[-1] == "5 processes share each step"
