"""The fused Matryoshka loss against autograd and central differences, and its independence of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from components.training.fused import fused_info_nce
from components.training.lanes import use_threads
from components.training.losses import info_nce, matryoshka


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    use_threads(request.param)
    yield request.param
    use_threads(1)


@pytest.mark.parametrize(("queries", "passages"), [(7, 7), (30, 45), (2, 3)])
def test_fused_loss_and_gradient_equal_autograd(queries: int, passages: int, threads: int) -> None:
    torch.manual_seed(queries)
    query = torch.randn(queries, 24, dtype=torch.float64, requires_grad=True)
    passage = torch.randn(passages, 24, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(queries, passages) < 0.2
    mask.fill_diagonal_(False)
    dims, weights = (4, 8, 24), (0.5, 0.2, 0.3)
    expected = matryoshka(
        lambda left, right: info_nce(left, right, 20, mask), (query, passage), dims, weights, reduction="sum"
    )
    expected.backward()
    loss, query_gradient, passage_gradient = fused_info_nce(query.detach(), passage.detach(), 20, dims, weights, mask)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    torch.testing.assert_close(query_gradient, query.grad, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(passage_gradient, passage.grad, rtol=1e-10, atol=1e-14)


def test_fused_gradient_equals_central_differences() -> None:
    torch.manual_seed(1)
    query, passage = torch.randn(5, 6, dtype=torch.float64), torch.randn(8, 6, dtype=torch.float64)
    _, gradient, _ = fused_info_nce(query, passage, 20, (2, 6), (0.5, 0.5))
    step = 1e-6
    for row, column in ((0, 0), (2, 1), (4, 5)):
        change = torch.zeros_like(query)
        change[row, column] = step
        above = fused_info_nce(query + change, passage, 20, (2, 6), (0.5, 0.5))[0]
        below = fused_info_nce(query - change, passage, 20, (2, 6), (0.5, 0.5))[0]
        assert gradient[row, column].item() == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_fused_loss_survives_the_sharpest_temperature_and_empty_texts() -> None:
    query, passage = torch.eye(3), -torch.eye(3)
    query[2] = 0
    loss, *gradients = fused_info_nce(query, passage, 100, (3,), (1.0,))
    expected = info_nce(query, passage, 100).item()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_bf16_products_stay_close() -> None:
    torch.manual_seed(2)
    query, passage = torch.randn(40, 64), torch.randn(60, 64)
    exact, gradient, _ = fused_info_nce(query, passage, 20, (16, 64), (0.5, 0.5))
    rounded, rounded_gradient, _ = fused_info_nce(query, passage, 20, (16, 64), (0.5, 0.5), bf16=True)
    assert rounded == pytest.approx(exact, rel=1e-2)
    assert torch.cosine_similarity(gradient.flatten(), rounded_gradient.flatten(), dim=0) > 0.999


def test_threads_change_no_byte() -> None:
    torch.manual_seed(3)
    query, passage = torch.randn(700, 32), torch.randn(900, 32)
    results = []
    for threads in (1, 2, 4):
        use_threads(threads)
        results.append(fused_info_nce(query, passage, 20, (8, 32), (0.5, 0.5), bf16=True))
    use_threads(1)
    for loss, *gradients in results[1:]:
        assert loss == results[0][0]
        assert all(torch.equal(one, other) for one, other in zip(gradients, results[0][1:], strict=True))
