"""The unpadded forward pass gives what the padded one gives, forwards and backwards."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, ModernBertConfig, ModernBertModel, XLMRobertaConfig, XLMRobertaModel

from components.training.packing import attend_varlen, attention, lean, make_lean, pack, pool, register_attention
from components.training.tokens import Bags

SMALL: dict[str, Any] = {
    "vocab_size": 90,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
# ModernBERT: every third layer sees the whole text, the others 4 tokens to each side
ENCODERS = {
    "bert": (BertModel, BertConfig(pad_token_id=0, **SMALL), 0),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig(pad_token_id=1, **SMALL), 2),
    "modernbert": (
        ModernBertModel,
        ModernBertConfig(pad_token_id=0, cls_token_id=0, sep_token_id=2, local_attention=8, **SMALL),
        0,
    ),
}


@pytest.fixture(scope="module")
def bags() -> Bags:
    rng = np.random.default_rng(0)
    lengths = np.sort(np.concatenate([rng.integers(2, 40, 12), [5, 5, 5, 61]]))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Bags(rng.integers(3, 90, offsets[-1]).astype(np.int32), offsets)


def padded(model: nn.Module, bags: Bags, pad: int, pooling: str) -> torch.Tensor:
    """Pooled states of the padded batch, by transformers alone."""
    lengths = torch.from_numpy(bags.lengths)
    mask_BL = torch.arange(int(lengths.max())) < lengths[:, None]
    ids_BL = torch.full(mask_BL.shape, pad)
    ids_BL[mask_BL] = torch.from_numpy(bags.tokens.astype(np.int64))
    states_BLH = model(input_ids=ids_BL, attention_mask=mask_BL.long()).last_hidden_state
    if pooling == "cls":
        return states_BLH[:, 0]
    if pooling == "last":
        return states_BLH[torch.arange(len(lengths)), lengths - 1]
    return (states_BLH * mask_BL[..., None]).sum(1) / lengths[:, None]


def gradients(model: nn.Module, out_BH: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(1)
    out_BH.backward(torch.randn(out_BH.shape))
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_packed_is_padded(kind: str, pooling: str, bags: Bags) -> None:
    maker, config, first = ENCODERS[kind]
    torch.manual_seed(0)
    model = maker(copy.deepcopy(config)).eval()
    theirs = padded(model, bags, config.pad_token_id, pooling)
    their_gradients = gradients(model, theirs)

    model.set_attn_implementation(register_attention())
    make_lean(model)
    packed = pack(bags)
    states = model(input_ids=packed.ids, position_ids=packed.positions + first, packed=packed).last_hidden_state[0]
    ours = pool(states, packed, pooling)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    our_gradients = gradients(model, ours)
    assert our_gradients.keys() == their_gradients.keys()
    scale = max(float(grad.abs().max()) for grad in their_gradients.values())
    for name, grad in our_gradients.items():
        torch.testing.assert_close(grad, their_gradients[name], rtol=1e-5, atol=2e-6 * scale, msg=name)


@pytest.mark.parametrize("kind", ["bert", "modernbert"])
def test_recomputed_layers_draw_the_same_dropout(kind: str, bags: Bags) -> None:
    maker, config, _ = ENCODERS[kind]
    torch.manual_seed(0)
    model = maker(copy.deepcopy(config)).train()
    model.set_attn_implementation(register_attention())
    make_lean(model)
    packed, found = pack(bags), []
    for _ in range(2):
        torch.manual_seed(3)
        out = pool(
            model(input_ids=packed.ids, position_ids=packed.positions, packed=packed).last_hidden_state[0],
            packed,
            "mean",
        )
        found.append(gradients(model, out))
        model.activation_checkpointing_enable({"use_reentrant": False})
    for name, grad in found[0].items():
        assert torch.equal(grad, found[1][name]), name


def test_dropout_keeps_the_asked_share_and_the_mean() -> None:
    torch.manual_seed(0)
    ones = torch.ones(999, 1001, requires_grad=True)
    dropped = lean().drop(ones, 0.1)
    kept = dropped != 0
    assert abs(float(kept.float().mean()) - 0.9) < 2e-3
    assert abs(float(dropped.detach().mean()) - 1) < 2e-3
    assert len(dropped[kept].unique()) == 1
    dropped.sum().backward()
    assert torch.equal(ones.grad, dropped.detach())
    assert not torch.equal(lean().drop(ones, 0.1), dropped)  # another draw
    # neighbours in a 64-bit draw are independent of one another
    pairs = kept.flatten()[: 999 * 1000].view(-1, 4).float()
    assert abs(float(torch.corrcoef(pairs.T)[0, 1])) < 0.01


def test_lean_linear_has_torchs_gradients() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(40, 24)
    leaner = nn.Linear(40, 24)
    leaner.load_state_dict(plain.state_dict())
    make_lean(leaner)
    for shape in [(1, 40), (3, 40), (2, 5, 40)]:
        states = torch.randn(shape, requires_grad=True)
        torch.testing.assert_close(leaner(states), plain(states))
        theirs = torch.autograd.grad(plain(states).square().sum(), [states, *plain.parameters()])
        ours = torch.autograd.grad(leaner(states).square().sum(), [states, *leaner.parameters()])
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_a_row_of_a_lean_product_does_not_know_the_others() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(64, 48)
    make_lean(layer)
    rows = torch.randn(300, 64)
    with torch.no_grad():
        whole = layer(rows)
        for count in (1, 2, 3, 4, 7, 33, 129):
            assert torch.equal(layer(rows[:count]), whole[:count]), count


@pytest.mark.parametrize("reach", [None, 3])
@pytest.mark.parametrize("width", [16, 26])
def test_what_flash_attention_is_asked_for(
    bags: Bags, reach: int | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call that a GPU gets, answered here by a loop over texts, gives what the CPU's path gives."""

    def answer(
        query_THd: torch.Tensor,
        key_THd: torch.Tensor,
        value_THd: torch.Tensor,
        bounds: torch.Tensor,
        same_bounds: torch.Tensor,
        longest: int,
        same_longest: int,
        *,
        scale: float,
        window_size: tuple[int, int],
    ) -> torch.Tensor:
        assert query_THd.shape[2] % 8 == 0
        assert bounds.dtype == torch.int32
        assert longest == same_longest == int(bounds.diff().max())
        out = torch.zeros_like(query_THd)
        for start, stop in zip(bounds.tolist(), same_bounds.tolist()[1:], strict=False):
            scores_HLL = torch.einsum("ihd,jhd->hij", query_THd[start:stop], key_THd[start:stop]) * scale
            place = torch.arange(stop - start)
            if window_size != (-1, -1):
                far = (place - place[:, None] > window_size[1]) | (place[:, None] - place > window_size[0])
                scores_HLL = scores_HLL.masked_fill(far, float("-inf"))
            out[start:stop] = torch.einsum("hij,jhd->ihd", scores_HLL.softmax(-1), value_THd[start:stop])
        return out

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", answer)
    packed = pack(bags)
    torch.manual_seed(0)
    parts = [torch.randn(1, 3, len(bags.tokens), width) for _ in range(3)]
    window = None if reach is None else reach + 1
    ours, _ = attention(nn.Identity(), *parts, None, packed, sliding_window=window)
    torch.testing.assert_close(attend_varlen(*parts, packed, 0.0, None, reach), ours)
