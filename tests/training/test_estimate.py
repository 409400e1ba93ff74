"""What is reckoned before a training is what a training then takes."""

from __future__ import annotations

import pytest
import torch

from components.core.errors import UsageError
from components.training.estimate import Shape, Step, activation_bytes, byte_words, gpu_cost, memory
from components.training.packing import pack
from components.training.tokens import tokenise
from components.training.transformer import TransformerModel, new_transformer
from components.training.vocabulary import learn_tokenizer

TEXTS = ["read a file and write it", "open the socket", "a table of strings that is read by many threads at once"] * 8
SHAPE = Shape(1000, 900, 64)
STEP = Step(texts=100, tokens=4000, queries=32, candidates=68)


@pytest.fixture(scope="module")
def bert() -> TransformerModel:
    tokenizer = learn_tokenizer(TEXTS, 300, 1)
    return new_transformer(tokenizer, 0, layers=3, hidden=96, heads=4, intermediate=384, max_positions=64)


def saved_bytes(model: TransformerModel) -> float:
    """Bytes a token that autograd keeps for the backward pass, weights and inputs aside."""
    bags = tokenise(model.tokenizer, TEXTS, special=True)
    weights = {weight.untyped_storage().data_ptr() for weight in model.encoder.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.encoder.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states_BD = model.states(pack(bags, model.device))
        count = sum(kept.values())
    del states_BD
    return count / len(bags.tokens)


def test_activations_of_a_layer_are_what_autograd_keeps(bert: TransformerModel) -> None:
    config = bert.encoder.config
    shape = Shape(0, 0, bert.dims, config.num_hidden_layers, config.hidden_size, config.intermediate_size)
    assert activation_bytes(shape, half=False, recomputed=False) == pytest.approx(saved_bytes(bert), rel=0.25)
    assert activation_bytes(shape, half=True, recomputed=False) < activation_bytes(shape, False, False) * 0.6
    assert activation_bytes(shape, half=False, recomputed=True) < activation_bytes(shape, False, False) * 0.5


def test_zero_shares_state_by_stage() -> None:
    def parts(zero: int) -> dict[str, int]:
        return memory(SHAPE, STEP, 512, 3, half=False, recomputed=False, zero=zero, processes=4)

    alone, first, second, third = (parts(stage) for stage in range(4))
    assert alone["moments of AdamW"] == 8 * 900
    assert first == {**alone, "moments of AdamW": 8 * 225}
    assert second == {**first, "gradients": 4 * 225}
    assert third == {**second, "weights": 4 * (225 + 100)}
    assert "activations" not in alone


def test_memory_depends_on_the_chunk_and_not_on_the_batch() -> None:
    shape = Shape(1000, 900, 64, layers=2, hidden=32, intermediate=64)
    small, large = Step(100, 4000, 32, 68), Step(1000, 40_000, 320, 680)
    parts = [memory(shape, step, 2048, 1, False, False, 0, 1)["activations"] for step in (small, large)]
    assert parts[0] == parts[1] == 2048 * activation_bytes(shape, False, False)


def test_gpu_hours_and_price() -> None:
    cost = gpu_cost(989e12 * 0.5 * 7200, "H100", half=True, mfu=0.5, price=3.0)
    assert (cost.gpu_hours, cost.money) == (pytest.approx(2.0), pytest.approx(6.0))
    with pytest.raises(UsageError, match=r"run\.cost\.gpu: 'Abacus' is not known"):
        gpu_cost(1.0, "Abacus", True, 0.5, 1.0)


def test_sizes_are_said_in_the_unit_that_suits_them() -> None:
    assert [byte_words(count) for count in (12, 2048, 3 << 20, 5 << 30)] == [
        "12 bytes",
        "2.0 KiB",
        "3.0 MiB",
        "5.0 GiB",
    ]
