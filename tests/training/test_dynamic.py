"""Dynamic hard-negative mining: when negatives are replaced, by which, and that nothing else decides it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.training.corpus import ABSENT
from components.training.distributed import World
from components.training.dynamic import HardNegatives, Pool, Rule, VectorsOf, vectors_of, write_negatives
from components.training.mining import Window
from components.training.tokens import PASSAGE, SidedTokens, TokenStore
from components.training.trainee import StaticTrainee

# Texts on a quarter circle: text t lies at t · 0.5 degrees, queries are 0 and 1, passages 2 … 101.
PASSAGES = np.arange(2, 102)
# Halves and quarters are exact in binary, so that a score can lie exactly on the boundary.
RULE = Rule(check_every=2, ratio=1.25, ceiling=0.75, offset=3)


def at(degrees_of: Callable[[np.ndarray], np.ndarray]) -> VectorsOf:
    def vectors(rows: np.ndarray, side: int, dims: int) -> np.ndarray:
        angle = np.radians(degrees_of(rows.astype(np.float64)))
        return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)

    return vectors


NEAR = at(lambda rows: rows * 0.5)
FAR = at(lambda rows: np.where(rows < 2, rows * 0.5, 60 - rows * 0.5))  # the order of the passages turned round


def pool(last: int = 12, items: int = 2) -> Pool:
    """Item i asks for text i; its answer is text 2 + i, and every passage scores below the ceiling."""
    return Pool(np.arange(items), 2 + np.arange(items), PASSAGES, Window(0, last, 9.0), 2)


def negatives(rule: Rule | None = RULE, count: int = 2, last: int = 12, **more: object) -> HardNegatives:
    hard = HardNegatives(pool(last), count, rule, **more)  # type: ignore[arg-type]
    hard.begin(NEAR)
    return hard


def seen(hard: HardNegatives, step: int, *scores: float, snapshot: VectorsOf = NEAR) -> list[list[int]]:
    """A step in which items 0, 1 … have these mean scores; what is present afterwards."""
    hard.observe(np.arange(len(scores)), torch.tensor([[0.9] * len(scores), scores]))
    hard.finish_step(step, lambda: snapshot)
    return hard.of(np.arange(2)).tolist()


def test_the_first_negatives_are_the_best_of_the_list() -> None:
    # item 0 leaves out its answer 2; item 1 its answer 3
    assert negatives().of(np.arange(2)).tolist() == [[3, 4], [2, 4]]
    assert negatives().of(np.array([1])).tolist() == [[2, 4]]


def test_replacement_i_takes_its_ranks() -> None:
    hard = negatives()
    assert seen(hard, 1, 0.5, 0.5) == [[3, 4], [2, 4]]
    # list of item 0: 3 4 5 6 7 …; ranks 3, 4 are 6, 7, then 8, 9
    assert seen(hard, 2, 0.25, 0.5) == [[6, 7], [2, 4]]
    seen(hard, 3, 0.5, 0.5)
    assert seen(hard, 4, 0.25, 0.5) == [[8, 9], [2, 4]]


@pytest.mark.parametrize(
    ("first", "score", "replaced"),
    [
        (0.625, 0.5, False),  # 1.25 · 0.5 is the first score exactly
        (0.625, float(np.nextafter(np.float32(0.5), np.float32(0))), True),
        (0.625, float(np.nextafter(np.float32(0.5), np.float32(1))), False),
        (1.0, 0.75, False),  # hard still: the score is the ceiling exactly
        (1.0, float(np.nextafter(np.float32(0.75), np.float32(0))), True),
        (1.0, -0.75, False),  # the absolute value counts
        (1.0, -0.5, True),
        (-0.25, -0.25, True),  # below zero a score is always easy
        (0.0, 0.0, False),
    ],
)
def test_boundaries_are_strict(first: float, score: float, replaced: bool) -> None:
    hard = negatives()
    seen(hard, 1, first)
    assert (seen(hard, 2, score)[0] == [6, 7]) == replaced


def test_the_papers_figures_are_the_defaults() -> None:
    hard = HardNegatives(pool(40), 2, Rule())
    hard.begin(NEAR)
    seen(hard, 1, 0.5, 0.5)
    # 1.15 · 0.43 = 0.4945 < 0.5; 1.15 · 0.44 = 0.506
    assert seen(hard, 99, 0.43, 0.44) == [[3, 4], [2, 4]]
    assert seen(hard, 100, 0.43, 0.44) == [[13, 14], [2, 4]]


def test_the_first_score_is_the_first_after_replacement() -> None:
    hard = negatives()
    seen(hard, 1, 0.5)
    seen(hard, 2, 0.25)
    # new negatives at 0.25 are no worse than when they were new
    assert seen(hard, 4, 0.25)[0] == [6, 7]
    assert seen(hard, 6, 0.125)[0] == [8, 9]


def test_items_without_a_score_stay() -> None:
    hard = negatives()
    hard.observe(np.array([0]), torch.tensor([[0.5], [torch.nan]]))
    hard.finish_step(1, lambda: NEAR)
    hard.finish_step(2, lambda: NEAR)
    assert hard.of(np.arange(2)).tolist() == [[3, 4], [2, 4]]


def test_roles_hold_their_own_negatives_and_are_replaced_together() -> None:
    hard = HardNegatives(pool(), 1, RULE, roles=2)
    hard.begin(NEAR)
    assert [hard.of(np.array([0]), role).tolist() for role in (0, 1, None)] == [[[3]], [[4]], [[3, 4]]]
    seen(hard, 1, 0.5)
    # n is 2, both roles together
    assert seen(hard, 2, 0.375)[0] == [6, 7]
    assert hard.of(np.array([0]), 1).tolist() == [[7]]


def test_a_list_used_up_is_mined_again_with_the_weights_of_then() -> None:
    hard = negatives(last=6)  # five candidates: the window of ranks 3, 4 fits, that of 5, 6 does not
    step = 0
    for expected in ([6, 7], [6, 7]):
        seen(hard, step + 1, 0.5)
        assert seen(hard, step + 2, 0.25, snapshot=FAR)[0] == expected
        step += 2
    assert hard.figures()["minings"] == 0
    seen(hard, 5, 0.25, snapshot=FAR)
    # with the weights of step 5 the best passages are those of the largest rows below 120
    assert seen(hard, 6, 0.25, snapshot=NEAR)[0] == [98, 97]
    assert hard.figures()["minings"] == 1
    seen(hard, 7, 0.5)
    assert seen(hard, 8, 0.5)[0] == [98, 97]


def test_a_list_that_ends_within_a_window_is_mined_again() -> None:
    hard = negatives(last=5)  # four candidates: of ranks 3, 4 only the first is there
    seen(hard, 1, 0.5)
    assert seen(hard, 2, 0.25)[0] == [3, 4]
    seen(hard, 3, 0.5)
    # the new list is too short for its window too: its last two
    assert seen(hard, 4, 0.5)[0] == [5, 6]


def test_an_item_without_candidates_keeps_what_it_has() -> None:
    hard = HardNegatives(Pool(np.array([0]), np.array([2]), np.array([2]), Window(0, 5, 9.0), 2), 2, RULE)
    hard.begin(NEAR)
    for step in range(1, 9):
        hard.observe(np.array([0]), torch.tensor([[1.0], [0.5**step]]))
        hard.finish_step(step, lambda: NEAR)
    assert hard.of(np.array([0])).tolist() == [[ABSENT, ABSENT]]


def test_named_negatives_come_first_and_stay_without_a_rule() -> None:
    given = np.array([[50, ABSENT, 2], [4, 60, ABSENT]])
    # 2 is the answer of item 0: a record that names it as a negative is wrong
    assert negatives(None, given_NK=given).of(np.arange(2)).tolist() == [[50, ABSENT, ABSENT, 3, 4], [4, 60, -1, 2, 4]]
    assert negatives(count=3, given_NK=given).of(np.arange(2)).tolist() == [[50, 3, 4], [4, 60, 2]]


def test_without_a_rule_scores_are_kept_and_nothing_is_replaced(tmp_path: Path) -> None:
    hard = negatives(None)
    for step in range(1, 300):
        present = seen(hard, step, 0.5**step, 0.5)
    assert present == [[3, 4], [2, 4]]
    assert hard.figures() | {"left": 0} == {
        "positive": 0.9, "negative": 0.25, "replaced": 0, "replaced_in_all": 0, "left": 0,
        "minings": 0,
    }  # fmt: skip
    write_negatives(str(tmp_path / "negatives.csv"), hard)
    lines = (tmp_path / "negatives.csv").read_text().splitlines()
    assert lines[:2] == ["step,kind,positive,negative,replaced,left", "1,standard,0.90000,0.50000,0,9.00"]
    assert len(lines) == 300


def test_figures_count_replacements_and_what_is_left(tmp_path: Path) -> None:
    hard = negatives()
    seen(hard, 1, 0.5, 0.5)
    assert hard.figures()["left"] == 9  # eleven candidates, two in use
    seen(hard, 2, 0.25, 0.25)
    assert hard.figures() | {"positive": 0} == {
        "positive": 0, "negative": 0.375, "replaced": 2, "replaced_in_all": 2, "left": 6.0,
        "minings": 0,
    }  # fmt: skip
    hard.finish_step(4, lambda: NEAR)
    assert (hard.figures()["replaced"], hard.figures()["replaced_in_all"]) == (0, 2)
    write_negatives(str(tmp_path / "negatives.csv"), hard)
    assert (tmp_path / "negatives.csv").read_text().splitlines()[1:] == [
        "1,dynamic,0.90000,0.50000,0,9.00",
        "2,dynamic,0.90000,0.25000,2,6.00",
        "4,dynamic,,,0,6.00",
    ]


def run(steps: int, seed: int, stop: int | None = None, slow: bool = False) -> tuple[dict[str, np.ndarray], list[int]]:
    """A run whose scores and weights go by (seed, step) alone; saved and loaded anew after ``stop`` steps."""

    def moved(step: int) -> VectorsOf:
        turned = at(lambda rows: rows * 0.5 * (1 + np.sin(rows + step)))

        def vectors(rows: np.ndarray, side: int, dims: int) -> np.ndarray:
            if slow and threading.current_thread().name == "mining":
                time.sleep(0.01)
            return turned(rows, side, dims)

        return vectors

    def fresh() -> HardNegatives:
        return HardNegatives(
            Pool(np.arange(12) % 5, 20 + np.arange(12), np.arange(20, 60), Window(1, 8, 9.0), 2), 2, RULE
        )

    hard, mined_at = fresh(), []
    hard.begin(moved(0))
    for step in range(1, steps + 1):
        rng = np.random.default_rng([seed, step])
        rows = rng.choice(12, 5, replace=False)
        hard.observe(rows, torch.from_numpy(rng.random((2, 5), np.float32)))
        before = hard.figures()["minings"]
        hard.finish_step(step, lambda: moved(step))  # noqa: B023
        if hard.figures()["minings"] != before:
            mined_at.append(step)
        if step == stop:
            saved = {name: tensor.clone() for name, tensor in hard.state().items()}
            hard = fresh()
            hard.load(saved)
    return {name: tensor.numpy() for name, tensor in hard.state().items()}, mined_at


def test_a_run_resumed_at_any_step_ends_the_same() -> None:
    whole, mined_at = run(40, 3)
    assert len(mined_at) > 2
    # a mining begins after an odd step and is used after the next: stops of both kinds fall in between
    for stop in range(1, 40):
        resumed, _ = run(40, 3, stop)
        assert all(np.array_equal(whole[name], resumed[name], equal_nan=True) for name in whole), stop


def test_the_speed_of_the_thread_changes_nothing() -> None:
    fast, _ = run(40, 3)
    slow, _ = run(40, 3, slow=True)
    assert all(np.array_equal(fast[name], slow[name], equal_nan=True) for name in fast)


def test_training_goes_on_while_a_thread_mines() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def blocked(rows: np.ndarray, side: int, dims: int) -> np.ndarray:
        begun.set()
        assert go_on.wait(10)
        return FAR(rows, side, dims)

    hard = HardNegatives(pool(5), 2, Rule(check_every=10, ratio=1.25, ceiling=0.75, offset=3))
    hard.begin(NEAR)
    seen(hard, 1, 0.5)
    seen(hard, 10, 0.25)
    for step in range(11, 20):
        seen(hard, step, 0.5, snapshot=blocked)
    assert begun.wait(10)
    go_on.set()
    assert seen(hard, 20, 0.5)[0] == [98, 97]


def test_threads_of_training_and_of_mining_are_apart() -> None:
    told: list[int] = []
    go_on = threading.Event()

    def counting(rows: np.ndarray, side: int, dims: int) -> np.ndarray:
        assert go_on.wait(10)
        told.append(torch.get_num_threads())
        return FAR(rows, side, dims)

    before = torch.get_num_threads()
    hard = negatives(last=5)
    seen(hard, 1, 0.5)
    seen(hard, 2, 0.25)
    try:
        torch.set_num_threads(2)
        seen(hard, 3, 0.5, snapshot=counting)
        torch.set_num_threads(1)
        go_on.set()
        seen(hard, 4, 0.5)
        assert (told, torch.get_num_threads()) == ([2, 2], 1)
    finally:
        torch.set_num_threads(before)


def test_what_goes_wrong_in_the_thread_is_raised() -> None:
    def broken(rows: np.ndarray, side: int, dims: int) -> np.ndarray:
        raise ValueError("no vectors")

    hard = negatives(last=5)
    seen(hard, 1, 0.5)
    seen(hard, 2, 0.25)
    seen(hard, 3, 0.25, snapshot=broken)
    with pytest.raises(ValueError, match="no vectors"):
        hard.finish_step(4, lambda: NEAR)


class Meeting(World):
    """Processes as threads: their tensors are added where they meet."""

    def __init__(self, rank: int, size: int, table: list[torch.Tensor | None], barrier: threading.Barrier) -> None:
        super().__init__(rank, size)
        self._table, self._barrier = table, barrier

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        self._table[self.rank] = tensor.clone()
        self._barrier.wait(10)
        total = sum(part for part in self._table if part is not None)
        self._barrier.wait(10)
        return tensor.copy_(total)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_mining_and_hold_the_same(size: int) -> None:
    table: list[torch.Tensor | None] = [None] * size
    barrier = threading.Barrier(size)
    present: dict[int, list[list[int]]] = {}

    def process(world: World) -> None:
        hard = HardNegatives(pool(5), 2, RULE, world=world)
        hard.begin(NEAR)
        for step, score in enumerate((0.5, 0.25, 0.25, 0.25), 1):
            own = score if world.main else 0.0  # one process has scored both items
            present[world.rank] = seen(hard, step, own, own, snapshot=FAR)

    threads = [threading.Thread(target=process, args=(Meeting(rank, size, table, barrier),)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process(World())
    assert [present[rank] for rank in range(size)] == [[[98, 97], [98, 97]]] * size


def test_processes_share_the_encoding(pair_store: tuple[TokenStore, np.ndarray, np.ndarray, int]) -> None:
    store, query, passage, vocabulary = pair_store
    tokens = SidedTokens.same(store)
    trainee = StaticTrainee(torch.randn(vocabulary, 8))
    rows = np.concatenate([query, passage])
    whole = vectors_of(trainee.vectors, tokens)(rows, PASSAGE, 8)
    given = []

    class Half(World):
        def gather(self, own_TD: torch.Tensor, rank_T: np.ndarray, notice: int = 0) -> torch.Tensor:
            given.append((own_TD, rank_T))
            return torch.from_numpy(whole)

    for rank in range(2):
        assert np.array_equal(vectors_of(trainee.vectors, tokens, Half(rank, 2))(rows, PASSAGE, 8), whole)
    for rank, (own_TD, rank_T) in enumerate(given):
        assert 0 < len(own_TD) < len(rows)
        np.testing.assert_array_equal(own_TD.numpy(), whole[rank_T == rank])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_no_known_positive_is_ever_a_negative(seed: int) -> None:
    rng = np.random.default_rng(seed)
    query, positive = rng.integers(0, 6, 20), rng.integers(4, 30, 20)
    given_NK = rng.integers(-1, 30, (20, 2))
    answers = [set(positive[query == text].tolist()) | {text} for text in query]
    hard = HardNegatives(
        Pool(query, positive, np.unique(positive), Window(0, int(rng.integers(5, 12)), 9.0), 2), 2, RULE, given_NK
    )
    hard.begin(NEAR)
    for step in range(1, 25):
        hard.observe(np.arange(20), torch.from_numpy(rng.random((2, 20), np.float32)))
        hard.finish_step(step, lambda: at(lambda rows: rows * (1 + step % 7)))  # noqa: B023
        for known, present in zip(answers, hard.of(np.arange(20)).tolist(), strict=True):
            assert not known & set(present)
