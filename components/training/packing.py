"""The unpadded forward pass: texts of a batch laid end to end, so that no work is done for padding.

The encoder's own modules run unchanged on one row of all tokens, because all they do token by token does not ask
where a text ends. Two things do: positions, which restart at each text, and attention, which is registered with
transformers under a name of ours. On a CPU, texts are sorted by length and those of one length attend as one product,
without a mask; on a GPU, attention takes the boundaries (variable-length flash attention).

On a CPU in fp32, linear layers and dropout are replaced by the same functions computed faster: oneDNN's products,
which on some processors take half the time of the BLAS that torch links, and masks from 16-bit random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from components.training.tokens import Bags

if TYPE_CHECKING:
    from torch import Tensor, nn

ATTENTION = "embedmill_packed"  # its name among transformers' attention functions
FLASH_WIDTH = 8  # flash attention takes heads of a multiple of this width
MIN_ROWS = 4  # oneDNN's products of fewer rows sum in another order
_RANDOM_VALUES = 1 << 16


@dataclass(frozen=True)
class Group:
    """Neighbouring texts of one length: ``texts`` of them, ``length`` tokens each."""

    texts: int
    length: int


@dataclass(frozen=True)
class Packed:
    """Texts laid end to end, shortest first, on a device.

    ``ids`` and ``positions`` (within the text, from 0): int64 [1, T]; ``bounds``: int32 [B + 1], where each text
    begins and the last ends; ``groups``: the same by length.
    """

    ids: Tensor
    positions: Tensor
    bounds: Tensor
    longest: int
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def split(self, tokens_T: Tensor) -> Sequence[Tensor]:
        """Values of the tokens [T, …], group by group."""
        import torch

        return torch.split(tokens_T, [group.texts * group.length for group in self.groups])


def length_order(bags: Bags) -> np.ndarray:
    """Texts from short to long, ties as they come, int64 [B]: the order in which ``pack`` wants them."""
    return np.argsort(bags.lengths, kind="stable")


def pack(bags: Bags, device: Any = "cpu") -> Packed:
    """Lay out ``bags``, whose texts go from short to long and have a token each."""
    import torch

    lengths = bags.lengths
    values, counts = np.unique(lengths, return_counts=True)
    groups = tuple(Group(int(count), int(length)) for length, count in zip(values, counts, strict=True))
    positions = np.arange(len(bags.tokens), dtype=np.int64) - np.repeat(bags.offsets[:-1], lengths)
    return Packed(
        torch.from_numpy(bags.tokens.astype(np.int64))[None].to(device),
        torch.from_numpy(positions)[None].to(device),
        torch.from_numpy(bags.offsets.astype(np.int32)).to(device),
        int(values[-1]),
        groups,
    )


def pool(states_TH: Tensor, packed: Packed, mode: str) -> Tensor:
    """One state a text [B, H]: its first token's (cls), its last token's (last), or the mean of all."""
    import torch

    if mode == "cls":
        return states_TH[packed.bounds[:-1].long()]
    if mode == "last":
        return states_TH[packed.bounds[1:].long() - 1]
    if states_TH.device.type == "cpu":  # text by text, in an order of summation that depends on the text alone
        width = states_TH.shape[1]
        parts = zip(packed.split(states_TH), packed.groups, strict=True)
        return torch.cat([part.view(group.texts, group.length, width).mean(1) for part, group in parts])
    return torch.segment_reduce(states_TH, "mean", offsets=packed.bounds.long(), axis=0)


@cache
def register_attention() -> str:
    """Make ``attention`` known to transformers; its name there."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention)
    return ATTENTION


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: Packed,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each text of ``packed``: query, key and value [1, heads, T, d] → [1, T, heads, d].

    ``sliding_window``, as ModernBERT gives it, is one more than the distance up to which tokens see each other.
    """
    import torch

    reach = None if sliding_window is None else sliding_window - 1
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return attend_varlen(query, key, value, packed, dropout, scaling, reach), None
    heads, width = query.shape[1], query.shape[3]
    # split once: a slice's gradient is as long as all tokens, and there would be one for each group
    parts = (packed.split(part[0].transpose(0, 1)) for part in (query, key, value))
    out_THd = []
    for group, *of_group in zip(packed.groups, *parts, strict=True):
        shape = group.texts, group.length, heads, width
        query_BHLd, key_BHLd, value_BHLd = (part.view(shape).transpose(1, 2) for part in of_group)
        out_BHLd = _attend(query_BHLd, key_BHLd, value_BHLd, dropout, scaling, reach)
        out_THd.append(out_BHLd.transpose(1, 2).reshape(-1, heads, width))
    return torch.cat(out_THd)[None], None


def _attend(
    query_BHLd: Tensor, key_BHLd: Tensor, value_BHLd: Tensor, dropout: float, scaling: float | None, reach: int | None
) -> Tensor:
    """Attention of texts of one length, [B, heads, L, d] → [B, heads, L, d]."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention, softmax

    length, width = query_BHLd.shape[2:]
    mask_LL = None
    if reach is not None and reach < length - 1:
        place_L = torch.arange(length, device=query_BHLd.device)
        mask_LL = (place_L[:, None] - place_L).abs() <= reach
    if dropout and not query_BHLd.is_cuda:
        scale = width**-0.5 if scaling is None else scaling
        scores_BHLL = (query_BHLd * scale) @ key_BHLd.transpose(2, 3)
        if mask_LL is not None:
            scores_BHLL = scores_BHLL.masked_fill(~mask_LL, float("-inf"))
        shares_BHLL = lean().drop(softmax(scores_BHLL, dim=-1), dropout)
        return shares_BHLL @ value_BHLd
    return scaled_dot_product_attention(
        query_BHLd, key_BHLd, value_BHLd, attn_mask=mask_LL, dropout_p=dropout, scale=scaling
    )


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, packed: Packed, dropout: float, scaling: float | None, reach: int | None
) -> Tensor:
    """Variable-length flash attention, [1, heads, T, d] → [1, T, heads, d]."""
    import torch
    from torch.nn.attention import varlen
    from torch.nn.functional import pad

    width = query.shape[3]
    fill = -width % FLASH_WIDTH  # zeros change neither scores nor sums
    query_THd, key_THd, value_THd = (pad(part[0].transpose(0, 1), (0, fill)) for part in (query, key, value))
    scale = width**-0.5 if scaling is None else scaling
    left = right = -1 if reach is None else reach
    bounds, longest = packed.bounds, packed.longest
    found: Any
    if not dropout:
        found = varlen.varlen_attn(
            query_THd, key_THd, value_THd, bounds, bounds, longest, longest, scale=scale, window_size=(left, right)
        )
    else:  # the public function has no dropout, the operator behind it has
        found, *_ = torch.ops.aten._flash_attention_forward(
            query_THd,
            key_THd,
            value_THd,
            bounds,
            bounds,
            longest,
            longest,
            dropout,
            False,
            False,
            scale=scale,
            window_size_left=left,
            window_size_right=right,
        )
    out: Tensor = found[None, ..., :width]
    return out


def make_lean(model: nn.Module) -> None:
    """Let the linear layers and dropouts of ``model`` compute their fp32 results on a CPU by the faster functions.

    Parameters, their names and what is saved stay as they are; elsewhere the layers do as before.
    """
    from torch import nn

    kinds: dict[type, type] = {nn.Linear: lean().linear, nn.Dropout: lean().dropout}
    for module in model.modules():
        module.__class__ = kinds.get(type(module), type(module))


@dataclass(frozen=True)
class Lean:
    """Layers and functions for a CPU."""

    linear: type
    dropout: type
    drop: Callable[[Tensor, float], Tensor]


@cache
def lean() -> Lean:
    """The lean layers (made here, because classes of torch's cannot be named before torch is imported)."""
    import torch
    from torch import nn
    from torch.autograd import Function
    from torch.autograd.function import once_differentiable

    onednn = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]

    def product(left_RK: Tensor, right_NK: Tensor, bias_N: Tensor | None = None) -> Tensor:
        """left · rightᵀ + bias by oneDNN; a row's bits do not depend on how many rows there are."""
        count = len(left_RK)
        if count < MIN_ROWS:
            left_RK = torch.cat([left_RK, left_RK.new_zeros(MIN_ROWS - count, left_RK.shape[1])])
        out_RN: Tensor = torch.ops.mkldnn._linear_pointwise(left_RK, right_NK, bias_N, "none", [], "")
        return out_RN[:count]

    class Product(Function):
        @staticmethod
        def forward(ctx: Any, states: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
            states_RK = states.reshape(-1, states.shape[-1])
            ctx.save_for_backward(states_RK, weight_NK)
            ctx.shape = states.shape
            return product(states_RK, weight_NK, bias_N).view(*states.shape[:-1], len(weight_NK))

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
            states_RK, weight_NK = ctx.saved_tensors
            grad_RN = grad.reshape(len(states_RK), -1)
            wanted = ctx.needs_input_grad
            return (
                product(grad_RN, weight_NK.t()).view(ctx.shape) if wanted[0] else None,
                product(grad_RN.t(), states_RK.t()) if wanted[1] else None,
                grad_RN.sum(0) if wanted[2] else None,
            )

    class Drop(Function):
        @staticmethod
        def forward(ctx: Any, states: Tensor, share: float) -> Tensor:
            count = states.numel()
            random_W = torch.empty((count + 3) // 4, dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
            dropped = round(share * _RANDOM_VALUES)
            kept = random_W.view(torch.int16)[:count].view(states.shape) >= dropped - _RANDOM_VALUES // 2
            ctx.save_for_backward(kept)
            ctx.scale = _RANDOM_VALUES / (_RANDOM_VALUES - dropped)
            return kept.to(states.dtype).mul_(ctx.scale).mul_(states)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
            (kept,) = ctx.saved_tensors
            return kept.to(grad.dtype).mul_(ctx.scale).mul_(grad), None

    def drop(states: Tensor, share: float) -> Tensor:
        """Dropout with random numbers of torch's own CPU generator, four at a draw."""
        dropped: Tensor = Drop.apply(states, share)  # type: ignore[no-untyped-call]
        return dropped

    class LeanLinear(nn.Linear):
        def forward(self, states: Tensor) -> Tensor:
            exact = states.dtype == self.weight.dtype == torch.float32 and not states.is_cuda
            if not exact or torch.is_autocast_enabled("cpu") or not onednn:
                return super().forward(states)
            out: Tensor = Product.apply(states, self.weight, self.bias)  # type: ignore[no-untyped-call]
            return out

    class LeanDropout(nn.Dropout):
        def forward(self, states: Tensor) -> Tensor:
            if not self.training or self.p == 0 or states.is_cuda:
                return super().forward(states)
            return drop(states, self.p)

    return Lean(LeanLinear, LeanDropout, drop)
