"""The closed forms of the static path against autograd, and their independence of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from components.training.lanes import LANES, share, use_threads
from components.training.static import bag_gradient, bag_mean
from components.training.tokens import Bags


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    use_threads(request.param)
    yield request.param
    use_threads(1)


def make_bags(texts: int, vocabulary: int, seed: int = 0) -> Bags:
    """Texts of 0 to 9 tokens, the first without any."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 10, texts)
    lengths[0] = 0
    tokens = rng.integers(0, vocabulary, lengths.sum()).astype(np.int32)
    return Bags(tokens, np.concatenate([[0], lengths.cumsum()]))


def test_bag_mean_is_the_mean_of_the_token_rows(threads: int) -> None:
    bags = make_bags(11, 40)
    weight = torch.randn(40, 6, dtype=torch.float64)
    mean = bag_mean(weight, bags)
    assert torch.equal(mean[0], torch.zeros(6, dtype=torch.float64))
    for text in range(1, 11):
        tokens = bags.tokens[bags.offsets[text] : bags.offsets[text + 1]]
        if len(tokens):
            torch.testing.assert_close(mean[text], weight[torch.from_numpy(tokens).long()].mean(0))


def test_bag_gradient_equals_autograd_and_clears_the_other_rows(threads: int) -> None:
    bags = make_bags(9, 50)
    weight = torch.randn(50, 5, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(9, 5, dtype=torch.float64)
    offsets = torch.from_numpy(bags.offsets[:-1])
    mean = torch.nn.functional.embedding_bag(torch.from_numpy(bags.tokens).long(), weight, offsets, mode="mean")
    mean.backward(upstream)
    gradient = torch.full((50, 5), 7.0, dtype=torch.float64)
    bag_gradient(upstream, bags, gradient)
    torch.testing.assert_close(gradient, weight.grad)


def test_bag_gradient_of_texts_without_tokens_is_zero() -> None:
    gradient = torch.ones(3, 2)
    bag_gradient(torch.ones(2, 2), Bags(np.zeros(0, np.int32), np.zeros(3, np.int64)), gradient)
    assert not gradient.any()


def test_lanes_share_all_items() -> None:
    for count in (0, 1, 3, 4, 10):
        assert [item for lane in range(LANES) for item in range(count)[share(count, lane)]] == list(range(count))
