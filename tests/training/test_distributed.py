"""Who encodes which text, and what a process understands of the environment it was started in."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
import torch

from components.core.errors import UsageError
from components.training.distributed import World, balance, place


def dealt(lengths_T: np.ndarray, size: int) -> np.ndarray:
    """The rule of `place`, text by text."""
    ranks = np.zeros(len(lengths_T), np.int64)
    loads = [(0, rank) for rank in range(size)]
    for text in sorted(range(len(lengths_T)), key=lambda text: (-max(1, lengths_T[text]), text)):
        load, ranks[text] = loads[0]
        heapq.heapreplace(loads, (load + max(1, int(lengths_T[text])), int(ranks[text])))
    return ranks


@pytest.mark.parametrize("seed", range(200))
def test_the_longest_text_goes_to_the_least_loaded_process(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 10))
    lengths_T = rng.integers(0, rng.integers(1, 80), int(rng.integers(0, 120)))
    assert place(lengths_T, size).tolist() == dealt(lengths_T, size).tolist()


def test_tokens_are_balanced_and_every_process_has_a_text() -> None:
    rng = np.random.default_rng(0)
    lengths_T = np.minimum(512, rng.lognormal(3.5, 1.0, 100_000).astype(np.int64))
    rank_T = place(lengths_T, 8)
    assert balance(lengths_T, rank_T, 8) > 0.9999
    assert balance(lengths_T, np.arange(len(lengths_T)) % 8, 8) < 0.999
    assert np.bincount(place(np.array([900, 1, 1, 1]), 4), minlength=4).tolist() == [1, 1, 1, 1]
    assert balance(np.array([900, 1, 1, 1]), np.arange(4), 4) == pytest.approx(903 / 4 / 900)


def test_shares_cover_all_rows_once() -> None:
    for count in (0, 1, 7, 64):
        shares = [World(rank, 3).share(count) for rank in range(3)]
        assert [row for share in shares for row in range(share.start, share.stop)] == list(range(count))
        assert max(share.stop - share.start for share in shares) - count // 3 <= 1


def test_a_process_alone_needs_nobody() -> None:
    world = World.from_environment({})
    embedding_TD = torch.randn(3, 2)
    assert (world.rank, world.size, world.main) == (0, 1, True)
    assert world.gather(embedding_TD, world.place(np.array([5, 1, 2]))) is embedding_TD
    assert world.most(3) == 3
    assert world.sum_(embedding_TD) is embedding_TD
    assert world.broadcast({"a": 1}) == {"a": 1}
    world.barrier()
    world.close()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2 without MASTER_ADDR and MASTER_PORT"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 does not fit WORLD_SIZE=2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE=two: expected a whole number"),
    ],
)
def test_an_environment_that_torchrun_would_not_make_is_refused(environment: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        World.from_environment(environment)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="LOCAL_RANK=2, but this machine has 2 GPUs"):
        World.from_environment({"WORLD_SIZE": "3", "RANK": "2", "LOCAL_RANK": "2"})
