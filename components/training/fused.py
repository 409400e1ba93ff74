"""InfoNCE fused over all Matryoshka dimensions, with its gradient in closed form.

Autograd computes one similarity matrix for each Matryoshka dimension and keeps them all for the backward pass. Here the
similarities grow dimension by dimension (one matrix product in all), a block of queries at a time, and the gradient is
written down directly: the same numbers faster, in the memory of a block, and the same bytes each time.

With G_k the inner products x·y of the leading d_k dimensions, S_k = scale · G_k / (|x|_k |y|_k), W_k = ∂L/∂S_k (the
softmax less the target) and A_k = ∂L/∂G_k = W_k · scale / (|x|_k |y|_k), the gradient of x_i in the dimensions of
segment s is Σ_{k ≥ s} ((A_k y)_i − Σ_j (W_k S_k)_ij x_i / |x_i|²_k), and that of log(scale) is the sum of all W_k S_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.training.lanes import in_lanes, share
from components.training.losses import IN_BATCH, NO_MASKS, Masks, Terms
from components.training.products import product

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import Tensor

# Scores of a block, which the matrix products work on: on a CPU those of all dimensions stay near its last cache.
_BLOCK_SCORES = {"cpu": 2**19, "cuda": 2**25}
_FEWEST_ROWS, _MOST_ROWS = 32, {"cpu": 512, "cuda": 2**25}  # of a block
# Scores that the softmax and its gradient work on at once: they stay in a core's own cache.
_TILE_SCORES = {"cpu": 2**17, "cuda": 2**25}
_MASKED = -1e4  # a score that no softmax sees, finite so that 0 × score stays 0
_STEEP = 25.0  # scales below never make a target's probability, e^(-2 · scale) at least, too small for its logarithm
_SMALLEST_CHANCE = 1e-30
_QUERY, _PASSAGE = 0, 1


@dataclass(frozen=True)
class Contrast:
    """A loss and its gradients with respect to queries [B, D], passages [M, D] and log(scale)."""

    loss: float
    query_grad: Tensor
    passage_grad: Tensor
    log_scale_grad: float


def fused_info_nce(
    query_BD: Tensor,
    passage_MD: Tensor,
    scale: float,
    dims: Sequence[int],
    weights: Sequence[float],
    masks: Masks = NO_MASKS,
    terms: Terms = IN_BATCH,
    bf16: bool = False,
    rows: slice | None = None,
    watch: Watch | None = None,
) -> Contrast:
    """Σ_k weights[k] · InfoNCE on the leading dims[k] dimensions, with its gradients.

    The same value as ``losses.matryoshka`` of ``losses.info_nce`` with ``reduction="sum"``, whatever the masks and
    terms. ``dims`` ascend; dimensions beyond the last get no gradient. ``bf16`` rounds the operands of the matrix
    products, never the softmax. ``rows`` leaves all but these queries to others: losses and gradients of disjoint
    shares add up to the whole. ``watch`` is filled with cosines of these queries.
    """
    rows = slice(0, len(query_BD)) if rows is None else rows
    sides = (_Side(query_BD, dims, bf16), _Side(passage_MD, dims, bf16))
    work = _Work(sides, scale, weights, terms, masks, watch)
    on_cpu = query_BD.device.type == "cpu"
    sums = in_lanes(lambda lane: work.run(share(0, lane, rows))) if on_cpu else [work.run(rows)]
    query_grad_BD, passage_grad_MD = (
        _projected(side, work.left[name], [each.right[name] for each in sums], [each.along[name] for each in sums])
        for name, side in enumerate(sides)
    )
    if watch is not None:
        watch.finish(rows, *(side.inverse_KN[watch.k] for side in sides))
    # every score counts once along its left text and once along its right one
    slope = sum(float(along_KN.double().sum()) for each in sums for along_KN in each.along) / 2
    return Contrast(float(work.loss_B.sum()), query_grad_BD, passage_grad_MD, slope)


class Watch:
    """Cosines at the ``k``-th dimension that a loss has at hand, whatever it masks.

    ``score_2B``: of query b and passage b, and the mean over query b and passages ``column_BK`` (pads are negative),
    NaN where there are none. Queries of other shares have 0.
    """

    def __init__(self, k: int, column_BK: npt.NDArray[np.int64], device: torch.device) -> None:
        import numpy as np
        import torch

        self.k = k
        column_BC = np.concatenate([np.arange(len(column_BK))[:, None], column_BK], axis=1)
        self._column_BC = torch.from_numpy(column_BC).to(device)
        self._place_BC = self._column_BC.clamp(min=0)
        self._gram_BC = torch.zeros(column_BC.shape, device=device)
        self.score_2B = torch.zeros(2, len(column_BC), device=device)

    def see(self, rows: slice, gram_bM: Tensor) -> None:
        """Take the inner products of these queries: one call, for there are many blocks."""
        self._gram_BC[rows] = gram_bM.gather(1, self._place_BC[rows])

    def finish(self, rows: slice, query_inverse_B: Tensor, passage_inverse_M: Tensor) -> None:
        """Make cosines of what was seen of these queries, with the inverse norms."""
        place_bC, present_bC = self._place_BC[rows], self._column_BC[rows] >= 0
        cosine_bC = self._gram_BC[rows] * passage_inverse_M[place_bC] * present_bC * query_inverse_B[rows, None]
        self.score_2B[0, rows] = cosine_bC[:, 0]
        self.score_2B[1, rows] = cosine_bC[:, 1:].sum(1) / present_bC[:, 1:].sum(1)


def block_rows(columns: int, kind: str = "cpu") -> int:
    """Rows of a block of scores with so many columns, on this kind of device; each lane works on one block."""
    return max(_FEWEST_ROWS, min(_MOST_ROWS[kind], _BLOCK_SCORES[kind] // columns))


class _Side:
    """One kind of text: its embeddings cut into the segments between the dimensions, and their norms."""

    def __init__(self, whole_ND: Tensor, dims: Sequence[int], bf16: bool) -> None:
        import torch

        edges = [0, *dims]
        self.whole_ND = whole_ND
        self.spans = [slice(edges[k], edges[k + 1]) for k in range(len(dims))]
        self.parts = [whole_ND[:, span].contiguous() for span in self.spans]
        self.operands = [part.to(torch.bfloat16) for part in self.parts] if bf16 else self.parts
        squares_KN = torch.stack([part.square().sum(1) for part in self.parts])
        self.inverse_KN = squares_KN.cumsum(0).sqrt().clamp_min(1e-12).reciprocal()

    def __len__(self) -> int:
        return len(self.whole_ND)


@dataclass(frozen=True)
class _Term:
    """Scores of the left texts of a row with all right texts; column i is the partner of row i.

    ``own``: the partner is the target, else it is left out. ``negatives_from``: the columns before it are left out,
    save the partner.
    """

    left: int
    right: int
    mask: Tensor | None
    own: bool = True
    negatives_from: int = 0


class _Sums:
    """What the rows of one lane add to the gradients, by side.

    ``right``: the segments of texts on the right [d_s, N] (empty if there are none); ``along``: Σ W_k S_k [K, N].
    """

    def __init__(self, sides: Sequence[_Side]) -> None:
        import torch

        self.right: list[list[Tensor]] = [[] for _ in sides]
        self.along = [torch.zeros_like(side.inverse_KN) for side in sides]

    def add(self, side: int, k: int, grad_dN: Tensor) -> None:
        """Adds to the segment ``k``; the first segments come in order."""
        if k == len(self.right[side]):
            self.right[side].append(grad_dN)
        else:
            self.right[side][k] += grad_dN


class _Work:
    """The loss of some rows, whichever lane asks; rows of different lanes are disjoint."""

    def __init__(
        self,
        sides: tuple[_Side, _Side],
        scale: float,
        weights: Sequence[float],
        terms: Terms,
        masks: Masks,
        watch: Watch | None,
    ) -> None:
        import torch

        query, _ = self.sides = sides
        self.watch = watch
        whole = query.whole_ND
        self.groups = _groups(terms, masks, len(query))
        self.weights = [weight / (len(self.groups) * len(query)) for weight in weights]
        self.weight_K = torch.tensor(self.weights, dtype=torch.float64, device=whole.device)
        self.scaled_KN = [scale * side.inverse_KN for side in sides]
        self.steep = scale > _STEEP
        self.loss_B = torch.zeros(len(query), dtype=torch.float64, device=whole.device)
        used = {term.left for group in self.groups for term in group}
        self.left = [
            [torch.zeros_like(part) for part in side.parts] if name in used else [] for name, side in enumerate(sides)
        ]

    def run(self, rows: slice) -> _Sums:
        """Loss of these query rows; writes what is theirs alone and returns what they add to other texts."""
        sums = _Sums(self.sides)
        kind = self.loss_B.device.type
        for group in self.groups:
            width = sum(len(self.sides[term.right]) for term in group)
            step = block_rows(width, kind)
            for start in range(rows.start, rows.stop, step):
                self._block(slice(start, min(start + step, rows.stop)), group, sums)
        return sums

    def _block(self, rows: slice, group: Sequence[_Term], sums: _Sums) -> None:
        columns, count = [], 0
        for term in group:
            columns.append(slice(count, count + len(self.sides[term.right])))
            count = columns[-1].stop
        gram_KbM = self._grams(rows, group)
        if self.watch is not None and group is self.groups[0]:
            self.watch.see(rows, gram_KbM[self.watch.k])
        step = max(1, _TILE_SCORES[self.loss_B.device.type] // count)
        for start in range(rows.start, rows.stop, step):
            stop = min(start + step, rows.stop)
            tile_KnM = [gram_bM[start - rows.start : stop - rows.start] for gram_bM in gram_KbM]
            self._tile(tile_KnM, slice(start, stop), group, columns, sums)
        for term, span in zip(group, columns, strict=True):
            left, right = self.sides[term.left], self.sides[term.right]
            for k, slope_bM in enumerate(gram_KbM):
                operand_bM = (slope_bM if len(group) == 1 else slope_bM[:, span].contiguous()).to(
                    left.operands[k].dtype
                )
                self.left[term.left][k][rows].add_(product(operand_bM, right.operands[k].T))
                sums.add(term.right, k, product(left.operands[k][rows].T, operand_bM.T))

    def _grams(self, rows: slice, group: Sequence[_Term]) -> list[Tensor]:
        """Inner products of the leading dimensions, by dimension, [b, columns of all terms]."""
        import torch

        by_term = []
        for term in group:
            left, right = self.sides[term.left], self.sides[term.right]
            grams: list[Tensor] = []
            for k, operand in enumerate(right.operands):
                grams.append(product(left.operands[k][rows], operand, grams[-1] if grams else None))
            by_term.append(grams)
        return by_term[0] if len(group) == 1 else [torch.cat(parts, dim=1) for parts in zip(*by_term, strict=True)]

    def _tile(
        self, gram_KnM: list[Tensor], rows: slice, group: Sequence[_Term], columns: Sequence[slice], sums: _Sums
    ) -> None:
        """Adds loss and slopes of these rows, and replaces each G_k by Σ_{j ≥ k} A_j."""
        import torch

        factor_nM, softmax_nM = torch.empty_like(gram_KnM[0]), torch.empty_like(gram_KnM[0])
        chance_Kn = gram_KnM[0].new_empty(len(gram_KnM), rows.stop - rows.start)
        surprise_Kn = torch.empty_like(chance_Kn) if self.steep else chance_Kn
        later_nM = gram_KnM[0].new_zeros(())
        for k in reversed(range(len(gram_KnM))):
            for term, span in zip(group, columns, strict=True):
                left_n, right_M = self.scaled_KN[term.left][k, rows], self.sides[term.right].inverse_KN[k]
                torch.mul(left_n[:, None], right_M, out=factor_nM[:, span])
            scores_nM = gram_KnM[k].mul_(factor_nM)
            for term, span in zip(group, columns, strict=True):
                _mask(scores_nM[:, span], term, rows)
            torch.softmax(scores_nM, 1, out=softmax_nM)
            target_n = softmax_nM.diagonal(rows.start)
            chance_Kn[k] = target_n
            if self.steep:
                gap_n = scores_nM.amax(1) - scores_nM.diagonal(rows.start)
                surprise_Kn[k] = gap_n - softmax_nM.amax(1).log()
            target_n.sub_(1)
            along_nM = scores_nM.mul_(softmax_nM)
            for term, span in zip(group, columns, strict=True):
                part_nM = along_nM[:, span]
                sums.along[term.left][k, rows].add_(part_nM.sum(1), alpha=self.weights[k])
                sums.along[term.right][k].add_(part_nM.sum(0), alpha=self.weights[k])
            later_nM = torch.addcmul(later_nM, softmax_nM, factor_nM, value=self.weights[k], out=gram_KnM[k])
        found_Kn = -chance_Kn.log()
        if self.steep:
            found_Kn = torch.where(chance_Kn > _SMALLEST_CHANCE, found_Kn, surprise_Kn)
        self.loss_B[rows].add_(self.weight_K @ found_Kn.double())


def _groups(terms: Terms, masks: Masks, count: int) -> list[list[_Term]]:
    """The terms that meet in a softmax; the loss is the mean over the groups. The first term holds the target."""
    groups = [[_Term(_QUERY, _PASSAGE, masks.passages, negatives_from=0 if terms.in_batch else count)]]
    if terms.query_query:
        groups[0].append(_Term(_QUERY, _QUERY, masks.queries, own=False))
    if terms.passage_passage:
        groups[0].append(_Term(_PASSAGE, _PASSAGE, masks.siblings, own=False))
    if terms.symmetric:
        mask_BB = None if masks.passages is None else masks.passages[:, :count].T
        from_passages = _Term(_PASSAGE, _QUERY, mask_BB)
        groups = [groups[0] + [from_passages]] if terms.joint else [*groups, [from_passages]]
    return groups


def _mask(scores_nM: Tensor, term: _Term, rows: slice) -> None:
    """Takes out of ``scores_nM`` what is no negative, leaving the target where the term has it."""
    if term.own and term.mask is None and not term.negatives_from:
        return
    own_n = scores_nM.diagonal(rows.start)
    kept_n = own_n.clone()
    if term.mask is not None:
        scores_nM.masked_fill_(term.mask[rows], _MASKED)
    scores_nM[:, : term.negatives_from].fill_(_MASKED)
    own_n.copy_(kept_n) if term.own else own_n.fill_(_MASKED)


def _projected(side: _Side, left: list[Tensor], right: Sequence[list[Tensor]], along: Sequence[Tensor]) -> Tensor:
    """The gradient [N, D]: what the rows found as left and as right texts, less its part along the text's vector."""
    import torch

    grad_ND = torch.zeros_like(side.whole_ND)
    along_KN = sum(along[1:], along[0]) * side.inverse_KN.square()
    later_KN = along_KN.flip(0).cumsum(0).flip(0)

    def work(rows: slice) -> None:
        for k, span in enumerate(side.spans):
            found = [left[k][rows]] if left else []
            right_dn = [part[k][:, rows] for part in right if part]
            if right_dn:
                found.append(sum(right_dn[1:], right_dn[0]).T)
            for total_nd in found[:1]:
                later_n1 = later_KN[k, rows, None]
                torch.addcmul(total_nd, later_n1, side.parts[k][rows], value=-1, out=grad_ND[rows, span])
            for total_nd in found[1:]:
                grad_ND[rows, span].add_(total_nd)

    if grad_ND.device.type == "cpu":
        in_lanes(lambda lane: work(share(len(grad_ND), lane)))
    else:
        work(slice(0, len(grad_ND)))
    return grad_ND
