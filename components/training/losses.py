"""Training losses as functions on embeddings. Softmax and loss are always fp32; scale is 1/temperature.

The shape suffixes: B pairs in the batch, M candidates, N negatives, C classes, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """What a query and its positive are set against in InfoNCE.

    ``in_batch``: the positives of the other queries; without it only the passages after the positives, which are the
    hard negatives of the whole batch (Conan-embedding: a query's denominator runs over its positive and the negatives
    of all roles). ``query_query``: the other queries. ``passage_passage``: the other passages against the positive.
    ``symmetric``: the queries against the positive.

    Terms with ``query_query`` or ``passage_passage`` share one softmax for each pair; all of them together are GTE's
    improved contrastive loss (Li et al. 2023, section 3.3). ``symmetric`` by itself is a softmax of its own, and the
    loss the mean of both directions (as in CLIP).
    """

    in_batch: bool = True
    query_query: bool = False
    passage_passage: bool = False
    symmetric: bool = False

    @property
    def joint(self) -> bool:
        """Whether all scores of a pair meet in one softmax."""
        return self.query_query or self.passage_passage


@dataclass(frozen=True)
class Masks:
    """Known false negatives, True where a text is no negative: bool on the embeddings' device, or None for none.

    ``passages`` [B, M]: those of each query (its positive, at column b, stays its positive whatever the mask says);
    ``queries`` [B, B]: other queries of each query; ``siblings`` [B, M]: other passages of each positive. The diagonals
    do not matter: no text is its own negative.
    """

    passages: Tensor | None = None
    queries: Tensor | None = None
    siblings: Tensor | None = None


IN_BATCH = Terms()
NO_MASKS = Masks()


def cosine_scores(left_BD: Tensor, right_MD: Tensor) -> Tensor:
    """Cosine of every left with every right vector [B, M]; a zero vector scores 0."""
    from torch.nn.functional import normalize

    return normalize(_widened(left_BD), dim=1) @ normalize(_widened(right_MD), dim=1).T


def info_nce(
    query_BD: Tensor,
    passage_MD: Tensor,
    scale: float | Tensor,
    masks: Masks = NO_MASKS,
    terms: Terms = IN_BATCH,
    rows: slice | None = None,
) -> Tensor:
    """InfoNCE with in-batch and hard negatives (Piccolo2 and Conan-embedding, retrieval loss).

    Passage b < B is the positive of query b; every other passage, hard negatives at B and after included, is a negative
    unless ``masks`` or ``terms`` say otherwise. ``scale`` may be a tensor, to be learned. ``rows`` restricts the loss
    to these queries: the losses of disjoint shares add up to the whole.
    """
    import torch

    count = len(query_BD)
    own_b = torch.arange(count, device=query_BD.device)[rows or slice(0, count)]
    positive_BD = passage_MD[:count]

    def scores(left_BD: Tensor, right_MD: Tensor, mask_BM: Tensor | None, own: bool, in_batch: bool = True) -> Tensor:
        scores_bM = scale * cosine_scores(left_BD[own_b], right_MD)
        mask_bM = torch.zeros_like(scores_bM, dtype=torch.bool) if mask_BM is None else mask_BM[own_b].clone()
        if not in_batch:
            mask_bM[:, :count] = True
        mask_bM.scatter_(1, own_b[:, None], not own)
        return scores_bM.masked_fill(mask_bM, float("-inf"))

    groups = [[scores(query_BD, passage_MD, masks.passages, True, terms.in_batch)]]
    if terms.query_query:
        groups[0].append(scores(query_BD, query_BD, masks.queries, False))
    if terms.passage_passage:
        groups[0].append(scores(positive_BD, passage_MD, masks.siblings, False))
    if terms.symmetric:
        mask_BB = None if masks.passages is None else masks.passages[:, :count].T
        from_passages_bB = scores(positive_BD, query_BD, mask_BB, True)
        if terms.joint:
            groups[0].append(from_passages_bB)
        else:
            groups.append([from_passages_bB])
    parts = [torch.nn.functional.cross_entropy(torch.cat(group, dim=1), own_b, reduction="sum") for group in groups]
    return torch.stack(parts).mean() / count


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
    from torch.nn.functional import cross_entropy

    scores_BC = scale * listed_cosines(text_BD, classes_BCD)
    if mask_BC is not None:
        scores_BC = scores_BC.masked_fill(mask_BC, float("-inf"))
    return cross_entropy(scores_BC, torch.zeros(len(text_BD), dtype=torch.long, device=text_BD.device))


def listed_cosines(query_BD: Tensor, candidates_BCD: Tensor) -> Tensor:
    """Cosine of each query with its own list of candidates [B, C]; a zero vector scores 0."""
    import torch
    from torch.nn.functional import normalize

    return torch.einsum("bd,bcd->bc", normalize(_widened(query_BD), dim=1), normalize(_widened(candidates_BCD), dim=2))


def kl_distillation(score_BC: Tensor, teacher_BC: Tensor, mask_BC: Tensor | None = None) -> Tensor:
    """Cross-entropy of the student's distribution over a query's candidates with the teacher's, averaged.

    FlagEmbedding's ``kl_div`` (the Kullback–Leibler divergence save for the teacher's entropy, which has no gradient):
    ``score_BC`` the student's scores over its temperature, ``teacher_BC`` the teacher's over its own. ``mask_BC``
    (bool, True = absent) pads rows that have fewer candidates.
    """
    import torch

    if mask_BC is not None:
        score_BC, teacher_BC = (part.masked_fill(mask_BC, -1e4) for part in (score_BC, teacher_BC))
    share_BC = torch.softmax(_widened(teacher_BC), dim=1)
    return -(share_BC * torch.log_softmax(_widened(score_BC), dim=1)).sum(1).mean()


def margin_distillation(score_BC: Tensor, teacher_BC: Tensor, mask_BC: Tensor | None = None) -> Tensor:
    """MarginMSE (Hofstätter et al. 2020): how far positive (candidate 0) and negatives are apart, as for the teacher.

    Mean of the squared difference over all negatives present; 0 if there are none.
    """
    import torch

    error_BN = ((score_BC[:, :1] - score_BC[:, 1:]) - (teacher_BC[:, :1] - teacher_BC[:, 1:])).square()
    present_BN = torch.ones_like(error_BN) if mask_BC is None else (~mask_BC[:, 1:]).to(error_BN.dtype)
    return (error_BN * present_BN).sum() / present_BN.sum().clamp_min(1)


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


def value_and_gradient(
    value: Callable[[Tensor], Tensor], embedding_TD: Tensor, mine: bool = True
) -> tuple[float, Tensor]:
    """``value`` of the embeddings and its gradient [T, D], by autograd; 0 if not ``mine``.

    Parameters that ``value`` reads beside the embeddings get their gradient in ``.grad``.
    """
    import torch

    if not mine:
        return 0.0, torch.zeros_like(embedding_TD)
    leaf_TD = embedding_TD.detach().requires_grad_()
    with torch.enable_grad():
        loss = value(leaf_TD)
        torch.autograd.backward([loss])
    assert leaf_TD.grad is not None
    return float(loss.detach()), leaf_TD.grad


def _widened(part: Tensor) -> Tensor:
    """At least fp32: half-precision embeddings are widened, fp64 ones (gradient checks) stay."""
    import torch

    return part.to(torch.promote_types(part.dtype, torch.float32))
