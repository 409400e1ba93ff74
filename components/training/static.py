"""The fast path of static embeddings: bag means and their exact gradient.

A static model is one table (V tokens × D dimensions); a text is the mean of its tokens' rows. sentence-transformers
trains it through autograd, which scatters a gradient for every token occurrence. Here the table's gradient is gathered
token by token, in a fixed order: the same numbers faster, and the same bytes each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from components.training.lanes import in_lanes, share
from components.training.tokens import Bags

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def bag_mean(weight_VD: Tensor, bags: Bags) -> Tensor:
    """Mean of the token rows of each text [B, D], a zero vector for a text without tokens; on the table's device."""
    import torch
    from torch.nn.functional import embedding_bag

    device = weight_VD.device
    mean_BD = weight_VD.new_empty(len(bags), weight_VD.shape[1])

    @torch.no_grad()
    def work(texts: slice) -> None:
        first, last = bags.offsets[texts.start], bags.offsets[texts.stop]
        starts_B = (bags.offsets[texts] - first).astype(np.int32)
        if len(starts_B):
            token_T = torch.from_numpy(bags.tokens[first:last]).to(device)
            mean_BD[texts] = embedding_bag(token_T, weight_VD, torch.from_numpy(starts_B).to(device), mode="mean")

    _in_parts(work, len(bags), device)
    return mean_BD


def bag_gradient(grad_BD: Tensor, bags: Bags, grad_VD: Tensor) -> None:
    """Write the table's gradient into ``grad_VD``, given the gradient of the bag means; other rows become zero.

    It is the transposed bag: for each token in ascending order, the weighted sum over the texts that hold it, in
    ascending order. The order is fixed, so the sum has the same bytes whatever the threads.
    """
    import torch
    from torch.nn.functional import embedding_bag

    device, lengths = grad_VD.device, bags.lengths
    texts_T = np.repeat(np.arange(len(bags), dtype=np.int64), lengths)
    order_T = np.sort(bags.tokens.astype(np.int64) << 32 | texts_T)
    texts_T = order_T & 0xFFFFFFFF
    token_U, first_U = np.unique(order_T >> 32, return_index=True)
    edges_U = np.append(first_U, len(order_T))
    inverse_B = np.reciprocal(np.maximum(lengths, 1).astype(np.float64))
    shares_T = torch.from_numpy(inverse_B[texts_T]).to(grad_BD.dtype)

    @torch.no_grad()
    def scatter(tokens: slice) -> None:
        first, last = edges_U[tokens.start], edges_U[tokens.stop]
        if last > first:
            grad_VD[torch.from_numpy(token_U[tokens]).to(device)] = embedding_bag(
                torch.from_numpy(texts_T[first:last]).to(device),
                grad_BD,
                torch.from_numpy(edges_U[tokens] - first).to(device),
                mode="sum",
                per_sample_weights=shares_T[first:last].to(device),
            )

    _in_parts(lambda rows: grad_VD[rows].zero_(), len(grad_VD), device)
    _in_parts(scatter, len(token_U), device)


def _in_parts(work: Callable[[slice], object], count: int, device: torch.device) -> None:
    """Work on all of ``count`` items: in lanes on a CPU, at once elsewhere."""
    if device.type == "cpu":
        in_lanes(lambda lane: work(share(count, lane)))
    else:
        work(slice(0, count))
