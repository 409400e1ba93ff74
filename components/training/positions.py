"""Longer texts for a model with learned positions, by hierarchical decomposition (Piccolo2, arXiv 2405.06932).

n learned vectors p become up to n²: with u = (p - α·p₁)/(1 - α), position (i - 1)·n + j gets α·uᵢ + (1 - α)·uⱼ. The
first n come out as they were, so texts within the old limit keep their vectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from components.training.transformer import TransformerModel


def decompose(known_ND: Tensor, length: int, alpha: float) -> Tensor:
    """``length`` position vectors [length, D] out of n = N learned ones, the first n of them the same bytes.

    Raises UsageError if ``length`` is not in n + 1 … n² or ``alpha`` not between 0 and 1; at 0.5, i and j would be
    interchangeable and positions share a vector.
    """
    import torch

    count = len(known_ND)
    if not 0 < alpha < 1 or alpha == 0.5:
        raise UsageError(f"positions.alpha: {alpha}: allowed are numbers between 0 and 1 other than 0.5")
    if not count < length <= count * count:
        raise UsageError(f"positions.length: {length}: the model has {count}; allowed are {count + 1} to {count**2}")
    wide_ND = known_ND.double()
    base_ND = (wide_ND - alpha * wide_ND[0]) / (1 - alpha)
    place = torch.arange(count, length, device=known_ND.device)
    beyond = alpha * base_ND[place // count] + (1 - alpha) * base_ND[place % count]
    return torch.cat([known_ND, beyond.to(known_ND.dtype)])


def extend_positions(model: TransformerModel, length: int, alpha: float = 0.4) -> None:
    """Let ``model`` read texts of ``length`` tokens: its position vectors, its configuration and its tokenizer's limit.

    Raises UsageError as ``decompose`` does, and for a model without learned positions.
    """
    import torch
    from torch import nn

    embeddings = model.encoder.embeddings
    table = getattr(embeddings, "position_embeddings", None)
    if not isinstance(table, nn.Embedding):
        kind = model.encoder.config.model_type
        raise UsageError(f"positions.length: a {kind} has no learned positions that could be extended; leave it null")
    first = model.first_position
    old_PD = table.weight.detach()
    new_PD = torch.cat([old_PD[:first], decompose(old_PD[first:], length, alpha)])
    table.weight = nn.Parameter(new_PD, requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(new_PD)
    embeddings.position_ids = torch.arange(len(new_PD), device=new_PD.device)[None]
    embeddings.token_type_ids = torch.zeros_like(embeddings.position_ids)
    model.encoder.config.max_position_embeddings = len(new_PD)
    model.limit_tokens(length)
