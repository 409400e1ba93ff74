"""InfoNCE fused over all Matryoshka dimensions, with its gradient in closed form.

Autograd computes one similarity matrix for each Matryoshka dimension and keeps them all for the backward pass. Here the
similarities grow dimension by dimension (one matrix product in all), and the gradient is written down directly: the
same numbers faster, and the same bytes each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.training.lanes import in_lanes, share

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 256  # query rows worked on at once: their scores stay in the processor's cache
_LARGEST_EXPONENT = 70.0  # e⁷⁰ summed over 10⁷ candidates still fits fp32, so no row needs its maximum first
_MASKED = -1e4  # a score that no softmax sees, finite so that 0 × score stays 0


def fused_info_nce(
    query_BD: Tensor,
    passage_MD: Tensor,
    scale: float,
    dims: Sequence[int],
    weights: Sequence[float],
    mask_BM: Tensor | None = None,
    bf16: bool = False,
    part: slice | None = None,
) -> tuple[float, Tensor, Tensor]:
    """Σ_k weights[k] · InfoNCE on the leading dims[k] dimensions, with its gradients: (loss, [B, D], [M, D]).

    The same value as ``losses.matryoshka`` of ``losses.info_nce`` with ``reduction="sum"``. ``dims`` ascend; dimensions
    beyond the last get no gradient. ``mask_BM`` True marks pairs that are no negatives. ``bf16`` rounds the operands of
    the matrix products, never the softmax. ``part`` leaves all but these queries to others: the results of parts that
    cover the batch add up to its loss and gradients.

    With G_k the inner products of the leading d_k dimensions, S_k = scale · G_k / (|q|_k |p|_k) and A_k = ∂L/∂G_k, the
    gradient of query i in the dimensions of segment s is Σ_{k ≥ s} (A_k p − (A_k·G_k)_i q_i / |q_i|²_k).
    """
    import torch

    count, edges = len(query_BD), [0, *dims]
    spans = [slice(edges[k], edges[k + 1]) for k in range(len(dims))]
    inverse_query_KB1 = _leading_norms(query_BD, spans).reciprocal()[..., None]
    inverse_passage_KM = _leading_norms(passage_MD, spans).reciprocal()
    operand = torch.bfloat16 if bf16 else query_BD.dtype
    operand_query_BD, operand_passage_MD = query_BD.to(operand), passage_MD.to(operand)
    shift = max(0.0, scale - _LARGEST_EXPONENT)
    grad_query_BD = torch.zeros_like(query_BD)

    def block(rows: slice, grad_passage_MD: Tensor, along_passage_KM: Tensor) -> float:
        """Loss of these query rows; writes their gradient, adds their part of the passages'."""
        target_b1 = torch.arange(rows.start, rows.stop)[:, None]
        gram_bM = query_BD.new_zeros(len(target_b1), len(passage_MD))
        loss, slope_KbM, along_Kb1 = 0.0, [], []
        for k, span in enumerate(spans):
            gram_bM += operand_query_BD[rows, span] @ operand_passage_MD[:, span].T
            scores_bM = gram_bM * (scale * inverse_query_KB1[k, rows])
            scores_bM *= inverse_passage_KM[k]
            if mask_BM is not None:
                scores_bM.masked_fill_(mask_BM[rows], _MASKED)
            slope_bM = (scores_bM - shift).exp_()
            total_b1 = slope_bM.sum(1, keepdim=True)
            loss += weights[k] / count * float((total_b1.log() + shift - scores_bM.gather(1, target_b1)).double().sum())
            slope_bM.scatter_add_(1, target_b1, -total_b1)
            slope_bM *= weights[k] / count / total_b1
            along_bM = scores_bM.mul_(slope_bM)
            along_passage_KM[k] += along_bM.sum(0)
            along_Kb1.append(along_bM.sum(1, keepdim=True) * inverse_query_KB1[k, rows] ** 2)
            slope_bM *= scale * inverse_query_KB1[k, rows]
            slope_bM *= inverse_passage_KM[k]
            slope_KbM.append(slope_bM)
        slope_bM, along_b1 = gram_bM.zero_(), torch.zeros_like(along_Kb1[0])
        for k in reversed(range(len(dims))):
            span = spans[k]
            slope_bM += slope_KbM[k]
            along_b1 += along_Kb1[k]
            operand_bM = slope_bM.to(operand)
            grad_query_BD[rows, span] = operand_bM @ operand_passage_MD[:, span] - along_b1 * query_BD[rows, span]
            grad_passage_MD[:, span] += operand_bM.T @ operand_query_BD[rows, span]
        return loss

    def work(lane: int) -> tuple[float, Tensor, Tensor]:
        mine, loss = share(count, lane, part), 0.0
        grad_passage_MD, along_passage_KM = torch.zeros_like(passage_MD), torch.zeros_like(inverse_passage_KM)
        for start in range(mine.start, mine.stop, _BLOCK):
            loss += block(slice(start, min(start + _BLOCK, mine.stop)), grad_passage_MD, along_passage_KM)
        return loss, grad_passage_MD, along_passage_KM

    loss_L, grad_passage_LMD, along_passage_LKM = zip(*in_lanes(work), strict=True)
    grad_passage_MD, along_passage_KM = _ordered_sum(grad_passage_LMD), _ordered_sum(along_passage_LKM)
    along_M1 = torch.zeros_like(passage_MD[:, :1])
    for k in reversed(range(len(dims))):
        along_M1 += (along_passage_KM[k] * inverse_passage_KM[k] ** 2)[:, None]
        grad_passage_MD[:, spans[k]] -= along_M1 * passage_MD[:, spans[k]]
    return sum(loss_L), grad_query_BD, grad_passage_MD


def _leading_norms(part_BD: Tensor, spans: Sequence[slice]) -> Tensor:
    """Norm of the leading dimensions up to the end of each span [K, B], never below 1e-12."""
    import torch

    squares_KB = torch.stack([part_BD[:, span].square().sum(1) for span in spans])
    return squares_KB.cumsum(0).sqrt().clamp_min(1e-12)


def _ordered_sum(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total
