"""The fused Matryoshka loss against autograd and central differences, and its independence of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product as combinations

import numpy as np
import pytest
import torch

from components.training import fused
from components.training.fused import Contrast, Watch, fused_info_nce
from components.training.lanes import use_threads
from components.training.losses import IN_BATCH, Masks, Terms, info_nce, matryoshka
from components.training.products import product

DIMS, WEIGHTS = (4, 8, 24), (0.5, 0.2, 0.3)
EVERY_TERM = [Terms(*choice) for choice in combinations((True, False), repeat=4)]


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    use_threads(request.param)
    yield request.param
    use_threads(1)


def texts(queries: int, passages: int, dims: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(queries)
    query = torch.randn(queries, dims, dtype=torch.float64, requires_grad=True)
    return query, torch.randn(passages, dims, dtype=torch.float64, requires_grad=True)


def random_masks(queries: int, passages: int) -> Masks:
    torch.manual_seed(passages)
    shapes = (queries, passages), (queries, queries), (queries, passages)
    return Masks(*(torch.rand(shape) < 0.2 for shape in shapes))


def assert_same(found: Contrast, loss: torch.Tensor, query: torch.Tensor, passage: torch.Tensor) -> None:
    assert found.loss == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(found.query_grad, query.grad, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found.passage_grad, passage.grad, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("queries", "passages"), [(7, 7), (30, 45), (2, 3)])
def test_fused_loss_and_gradient_equal_autograd(queries: int, passages: int, threads: int) -> None:
    query, passage = texts(queries, passages)
    masks = random_masks(queries, passages)
    expected = matryoshka(lambda *part: info_nce(*part, 20, masks), (query, passage), DIMS, WEIGHTS, reduction="sum")
    expected.backward()
    found = fused_info_nce(query.detach(), passage.detach(), 20, DIMS, WEIGHTS, masks)
    assert_same(found, expected, query, passage)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("terms", EVERY_TERM)
def test_every_choice_of_terms_equals_autograd_with_the_gradient_of_the_scale(terms: Terms, masked: bool) -> None:
    query, passage = texts(9, 14)
    masks = random_masks(9, 14) if masked else Masks()
    log_scale = torch.tensor(20.0, dtype=torch.float64).log().requires_grad_()
    expected = matryoshka(
        lambda *part: info_nce(*part, log_scale.exp(), masks, terms), (query, passage), DIMS, WEIGHTS, "sum"
    )
    expected.backward()
    found = fused_info_nce(query.detach(), passage.detach(), 20, DIMS, WEIGHTS, masks, terms)
    assert_same(found, expected, query, passage)
    assert log_scale.grad is not None
    assert found.log_scale_grad == pytest.approx(log_scale.grad.item(), rel=1e-9)


@pytest.mark.parametrize(
    "terms", [IN_BATCH, Terms(in_batch=False), Terms(symmetric=True), Terms(True, True, True, True)]
)
def test_shares_of_the_queries_add_up_to_the_whole(terms: Terms) -> None:
    query, passage = (part.detach() for part in texts(11, 16))
    masks = random_masks(11, 16)
    whole = fused_info_nce(query, passage, 20, DIMS, WEIGHTS, masks, terms)
    shares = [
        fused_info_nce(query, passage, 20, DIMS, WEIGHTS, masks, terms, rows=slice(*edges))
        for edges in ((0, 4), (4, 4), (4, 11))
    ]
    assert sum(part.loss for part in shares) == pytest.approx(whole.loss, rel=1e-12)
    assert sum(part.log_scale_grad for part in shares) == pytest.approx(whole.log_scale_grad, rel=1e-9)
    torch.testing.assert_close(sum(part.query_grad for part in shares), whole.query_grad)
    torch.testing.assert_close(sum(part.passage_grad for part in shares), whole.passage_grad)


@pytest.mark.parametrize("terms", EVERY_TERM)
def test_gradients_equal_central_differences(terms: Terms) -> None:
    query, passage = (part.detach() for part in texts(5, 8, 6))
    masks = random_masks(5, 8)

    def loss(query: torch.Tensor, passage: torch.Tensor, scale: float = 20.0) -> Contrast:
        return fused_info_nce(query, passage, scale, (2, 6), (0.5, 0.5), masks, terms)

    found, step = loss(query, passage), 1e-6

    def slope(moved: Callable[[float], Contrast]) -> float:
        return (moved(step).loss - moved(-step).loss) / (2 * step)

    for row, column in ((0, 0), (2, 1), (4, 5)):
        change = torch.zeros_like(query)
        change[row, column] = 1
        expected = slope(lambda by, change=change: loss(query + by * change, passage))
        assert found.query_grad[row, column].item() == pytest.approx(expected, rel=1e-5, abs=1e-8)
    for row, column in ((1, 0), (3, 4), (7, 5)):
        change = torch.zeros_like(passage)
        change[row, column] = 1
        expected = slope(lambda by, change=change: loss(query, passage + by * change))
        assert found.passage_grad[row, column].item() == pytest.approx(expected, rel=1e-5, abs=1e-8)
    expected = slope(lambda by: loss(query, passage, 20 * (1 + by)))
    assert found.log_scale_grad == pytest.approx(expected, rel=1e-5)


def test_blocks_and_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, passage = (part.detach() for part in texts(90, 120))
    whole = fused_info_nce(query, passage, 20, DIMS, WEIGHTS)
    monkeypatch.setattr(fused, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(fused, "_BLOCK_SCORES", {"cpu": 7 * 120})
    monkeypatch.setattr(fused, "_TILE_SCORES", {"cpu": 2 * 120})
    cut = fused_info_nce(query, passage, 20, DIMS, WEIGHTS)
    assert cut.loss == pytest.approx(whole.loss, rel=1e-12)
    torch.testing.assert_close(cut.query_grad, whole.query_grad)
    torch.testing.assert_close(cut.passage_grad, whole.passage_grad)


@pytest.mark.parametrize("terms", [IN_BATCH, Terms(False, True, True, True)])
def test_watched_cosines_are_those_of_the_dimension_whatever_is_masked(terms: Terms) -> None:
    query, passage = torch.randn(7, 24), torch.randn(9, 24)
    column = np.array([[7, 8, 7], [7, -1, 0], [-1, -1, -1], [-1, -1, 8], [0, 1, 2], [1, 1, 1], [8, 7, 6]])
    masks = Masks(torch.ones(7, 9, dtype=torch.bool))
    watches = []
    for rows in (None, slice(0, 3), slice(3, 7)):
        watch = Watch(1, column, query.device)
        fused_info_nce(query, passage, 20, DIMS, WEIGHTS, masks, terms, rows=rows, watch=watch)
        watches.append(watch.score_2B)
    cosine = torch.cosine_similarity(query[:, None, :8], passage[None, :, :8], dim=2)
    means = [cosine[row, [place for place in places if place >= 0]].mean() for row, places in enumerate(column)]
    expected = torch.stack([cosine.diagonal(), torch.stack(means)])
    torch.testing.assert_close(watches[0], expected, equal_nan=True)
    torch.testing.assert_close(watches[1] + watches[2], expected, equal_nan=True)


def test_dimensions_beyond_the_last_get_no_gradient() -> None:
    query, passage = (part.detach() for part in texts(4, 4))
    found = fused_info_nce(query, passage, 20, (4, 8), (0.5, 0.5))
    assert found.query_grad[:, :8].any()
    assert not found.query_grad[:, 8:].any()


def test_fused_loss_survives_the_sharpest_temperature_and_empty_texts() -> None:
    query, passage = torch.eye(3), -torch.eye(3)
    query[2] = 0
    found = fused_info_nce(query, passage, 100, (3,), (1.0,))
    expected = info_nce(query, passage, 100).item()
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert torch.isfinite(found.query_grad).all()
    assert torch.isfinite(found.passage_grad).all()
    alone = fused_info_nce(torch.eye(2), -torch.ones(2, 2), 200, (2,), (1.0,), Masks(torch.ones(2, 2) > 0))
    assert alone.loss == pytest.approx(0.0, abs=1e-6)


def test_bf16_products_stay_close() -> None:
    torch.manual_seed(2)
    query, passage = torch.randn(40, 64), torch.randn(60, 64)
    exact = fused_info_nce(query, passage, 20, (16, 64), (0.5, 0.5))
    rounded = fused_info_nce(query, passage, 20, (16, 64), (0.5, 0.5), bf16=True)
    assert rounded.loss == pytest.approx(exact.loss, rel=1e-2)
    assert torch.cosine_similarity(exact.query_grad.flatten(), rounded.query_grad.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("bf16", [False, True])
def test_threads_change_no_byte(bf16: bool) -> None:
    torch.manual_seed(3)
    query, passage = torch.randn(700, 32), torch.randn(900, 32)
    results = []
    for threads in (1, 2, 4):
        use_threads(threads)
        results.append(fused_info_nce(query, passage, 20, (8, 32), (0.5, 0.5), bf16=bf16))
    use_threads(1)
    for found in results[1:]:
        assert found.loss == results[0].loss
        assert torch.equal(found.query_grad, results[0].query_grad)
        assert torch.equal(found.passage_grad, results[0].passage_grad)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_products_are_products_of_contiguous_and_transposed_parts(dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    left, right, total = torch.randn(5, 7, dtype=dtype), torch.randn(3, 7, dtype=dtype), torch.randn(5, 3)
    total = total.to(torch.promote_types(dtype, torch.float32))
    expected = left.double() @ right.double().T
    close = {"rtol": 1e-2, "atol": 5e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    for one in (left, left.T.contiguous().T):
        for other in (right, right.T.contiguous().T):
            assert product(one, other).dtype == total.dtype
            torch.testing.assert_close(product(one, other).double(), expected, **close)
            torch.testing.assert_close(product(one, other, total).double(), expected + total.double(), **close)
