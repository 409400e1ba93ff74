"""Training losses as functions on embeddings. Softmax and loss are always fp32; scale is 1/temperature.

The shape suffixes: B pairs in the batch, M candidates, N negatives, C classes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cosine_scores(left_BD: Tensor, right_MD: Tensor) -> Tensor:
    """Cosine of every left with every right vector [B, M]; a zero vector scores 0."""
    from torch.nn.functional import normalize

    return normalize(_widened(left_BD), dim=1) @ normalize(_widened(right_MD), dim=1).T


def info_nce(query_BD: Tensor, passage_MD: Tensor, scale: float, mask_BM: Tensor | None = None) -> Tensor:
    """InfoNCE with in-batch negatives (Piccolo2 and Conan-embedding, retrieval loss).

    Passage b < B is the positive of query b; every other passage, hard negatives at B and after included, is a negative
    unless ``mask_BM`` (bool, True = no negative) says otherwise.
    """
    import torch
    from torch.nn.functional import cross_entropy

    scores_BM = scale * cosine_scores(query_BD, passage_MD)
    if mask_BM is not None:
        scores_BM = scores_BM.masked_fill(mask_BM, float("-inf"))
    return cross_entropy(scores_BM, torch.arange(len(scores_BM)))


def cosent(left_BD: Tensor, right_BD: Tensor, label_B: Tensor, scale: float) -> Tensor:
    """CoSENT: log(1 + Σ exp(scale·(cos_j − cos_i))) over all i, j with label_i > label_j (Piccolo2, STS loss)."""
    import torch
    from torch.nn.functional import cosine_similarity

    score_B = scale * cosine_similarity(_widened(left_BD), _widened(right_BD), dim=1)
    excess_BB = score_B[None, :] - score_B[:, None]
    excess_BB = excess_BB.masked_fill(label_B[:, None] <= label_B[None, :], float("-inf"))
    return torch.logsumexp(torch.cat([excess_BB.new_zeros(1), excess_BB.flatten()]), dim=0)


def class_contrast(text_BD: Tensor, classes_BCD: Tensor, scale: float, mask_BC: Tensor | None = None) -> Tensor:
    """InfoNCE of a text against its own label text (class 0) and other labels, **without** in-batch negatives.

    In a batch many texts share a label, so in-batch negatives would contradict the labels (Piccolo2, section on
    classification). ``mask_BC`` (bool, True = absent) pads rows that have fewer classes.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    scores_BC = scale * torch.einsum(
        "bd,bcd->bc", normalize(_widened(text_BD), dim=1), normalize(_widened(classes_BCD), dim=2)
    )
    if mask_BC is not None:
        scores_BC = scores_BC.masked_fill(mask_BC, float("-inf"))
    return cross_entropy(scores_BC, torch.zeros(len(text_BD), dtype=torch.long))


def distillation(student_BD: Tensor, teacher_BD: Tensor) -> Tensor:
    """1 − cosine of student and teacher vector, averaged: regression onto the teacher's direction."""
    from torch.nn.functional import cosine_similarity

    return (1 - cosine_similarity(_widened(student_BD), _widened(teacher_BD), dim=1)).mean()


def matryoshka(
    loss: Callable[..., Tensor],
    embeddings: Sequence[Tensor],
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``loss`` on the leading d dimensions of ``embeddings``, for every d of ``dims`` (Kusupati et al. 2022).

    ``reduction``: ``mean`` divides by the sum of the weights; ``sum`` is sentence-transformers' definition.
    """
    import torch

    weights = [1.0] * len(dims) if weights is None else list(weights)
    parts = [[part[..., :dim] for part in embeddings] for dim in dims]
    total = torch.stack([weight * loss(*part) for weight, part in zip(weights, parts, strict=True)]).sum()
    return total / sum(weights) if reduction == "mean" else total


def _widened(part: Tensor) -> Tensor:
    """At least fp32: half-precision embeddings are widened, fp64 ones (gradient checks) stay."""
    import torch

    return part.to(torch.promote_types(part.dtype, torch.float32))
