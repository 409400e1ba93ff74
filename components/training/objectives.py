"""What a batch of each task is trained on: the texts it needs, and loss and gradient on their embeddings.

Piccolo2's hybrid: retrieval pairs by InfoNCE with in-batch and hard negatives, graded pairs by CoSENT, classes by
contrast with other label texts only; and distillation of a teacher's vectors. Each runs at all Matryoshka dimensions.

Every process sees the embeddings of the whole batch and answers for a share of its rows: losses and gradients of all
shares add up to those of the batch. A loss that does not split by rows is left to the process with the last rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from components.core.errors import UsageError
from components.training.corpus import ABSENT, RetrievalRows, Rows
from components.training.dynamic import HardNegatives
from components.training.fused import Watch, fused_info_nce
from components.training.guide import Guide
from components.training.losses import (
    IN_BATCH,
    Masks,
    Terms,
    class_contrast,
    cosent,
    distillation,
    kl_distillation,
    listed_cosines,
    margin_distillation,
    matryoshka,
    value_and_gradient,
)
from components.training.plan import TaskRows
from components.training.tokens import PASSAGE, QUERY, SYMMETRIC, Texts

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Matryoshka:
    """Ascending dimensions that the loss is taken at, and their weights, which already hold the reduction."""

    dims: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, dims: Sequence[int], reduction: str, weights: Sequence[float] | None = None) -> Matryoshka:
        """``weights`` in the order of ``dims``, equal ones if not given; ``mean`` scales them so that they sum to 1."""
        each = [1.0] * len(dims) if weights is None else list(weights)
        whole = sum(each) if reduction == "mean" else 1.0
        pairs = sorted(zip(dims, each, strict=True))
        return cls(tuple(dim for dim, _ in pairs), tuple(weight / whole for _, weight in pairs))


@dataclass(frozen=True)
class ScoreDistillation:
    """A teacher's scores [N, C] of candidates [N, C] (store rows) for each query, the positive first, NaN for unknown.

    ``kl_div`` is FlagEmbedding's: the teacher's softmax at ``temperature`` against the student's at that of the
    contrastive loss, which it is added to. ``margin`` is MarginMSE on cosines. Both run over those candidates that are
    in the batch, and average over the rows that have two of them.
    """

    candidates: Rows
    scores: npt.NDArray[np.float32]
    kind: Literal["kl_div", "margin"] = "kl_div"
    weight: float = 1.0
    temperature: float = 1.0

    @classmethod
    def of(
        cls, rows: RetrievalRows, kind: Literal["kl_div", "margin"], weight: float, temperature: float, key: str
    ) -> ScoreDistillation:
        """The scores that the records hold. Raises UsageError, naming the parameter ``key``, if none has any."""
        if rows.score is None:
            raise UsageError(
                f"{key}: no retrieval record has a teacher's scores (pos_scores, neg_scores); set it to null"
            )
        candidates = np.concatenate([rows.positive[:, None], rows.negatives], axis=1)
        return cls(candidates, rows.score, kind, weight, temperature)

    def columns(self, rows: Rows, passage_M: Rows) -> Rows:
        """Where the rows' scored candidates stand in the batch [b, C], ``ABSENT`` for those that do not."""
        wanted_bC = np.where(np.isnan(self.scores[rows]), ABSENT, self.candidates[rows])
        place_bC = places(passage_M, wanted_bC)
        return np.where(passage_M[place_bC] == wanted_bC, place_bC, ABSENT)


class Objective(Protocol):
    """One task: its rows for the plan, the texts of a batch, and the loss on their embeddings."""

    task: TaskRows

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """What is learned beside the model, by name; `loss` leaves gradients in ``.grad``."""
        ...

    @property
    def negatives(self) -> HardNegatives | None:
        """Hard negatives that remember their scores, which `loss` shows them, and may change between steps."""
        ...

    def texts(self, rows: Rows) -> Texts:
        """The texts to embed for a batch, [T]."""
        ...

    def loss(self, embedding_TD: Tensor, rows: Rows, share: slice) -> tuple[float, Tensor]:
        """This share's part of the batch's loss, and of its gradient [T, D]."""
        ...


class Retrieval:
    """InfoNCE: store rows of queries [N], positives [N], hard negatives.

    These are fixed [N, K] (``ABSENT`` where a row has fewer), or are mined, watched and maybe replaced. ``terms``,
    ``guide`` and ``distill`` are described where they are defined. A learned temperature is trained as log(scale), and
    the scale kept at 100 or below (or where it started), as in CLIP.
    """

    def __init__(
        self,
        query_N: Rows,
        positive_N: Rows,
        negatives: Rows | HardNegatives,
        repeat_N: Rows,
        batch_size: int,
        scale: float,
        matryoshka: Matryoshka,
        bf16: bool,
        terms: Terms = IN_BATCH,
        learn_temperature: bool = False,
        guide: Guide | None = None,
        distill: ScoreDistillation | None = None,
    ) -> None:
        self._query_N, self._positive_N = query_N, positive_N
        self.negatives = negatives if isinstance(negatives, HardNegatives) else None
        self._negatives_of = negatives.of if isinstance(negatives, HardNegatives) else negatives.__getitem__
        self._matryoshka, self._bf16 = matryoshka, bf16
        self._terms, self._guide, self._distill = terms, guide, distill
        self._watched = len(matryoshka.dims) - 1  # the dimension that hardness is measured at
        if self.negatives:
            self._watched = min(int(np.searchsorted(matryoshka.dims, self.negatives.dims)), self._watched)
        self._temperature = Temperature(scale, learn_temperature)
        self.parameters: Mapping[str, Tensor] = self._temperature.parameters
        # queries and positives must be distinct in a batch: a repeated one would be a false negative
        texts = np.stack([query_N, positive_N], axis=1).astype(np.uint64)
        self.task = TaskRows("retri_contrast", texts, batch_size, repeat_N)
        self._related = Related(query_N, positive_N)

    def texts(self, rows: Rows) -> Texts:
        """Queries, positives, then the distinct mined negatives that are no positive of the batch already."""
        return Texts.concatenate([Texts.of(self._query_N[rows], QUERY), Texts.of(self._passages(rows), PASSAGE)])

    def loss(self, embedding_TD: Tensor, rows: Rows, share: slice) -> tuple[float, Tensor]:
        """Every query against every positive and negative of the batch, save those known to be relevant to it."""
        import torch

        count, passage_M = len(rows), self._passages(rows)
        query_BD, passage_MD = embedding_TD[:count], embedding_TD[count:]
        watch = None
        if self.negatives:
            watch = Watch(self._watched, places(passage_M, self.negatives.of(rows)), embedding_TD.device)
        masks, terms = self._masks(rows, passage_M, embedding_TD.device)
        scale, (dims, weights) = self._temperature.scale(), (self._matryoshka.dims, self._matryoshka.weights)
        found = fused_info_nce(query_BD, passage_MD, scale, dims, weights, masks, terms, self._bf16, share, watch)
        if self.negatives and watch:
            self.negatives.observe(rows, watch.score_2B)
        self._temperature.learn(found.log_scale_grad)
        grad_TD = torch.cat([found.query_grad, found.passage_grad])
        if self._distill is None or share.stop != count:
            return found.loss, grad_TD
        loss, distilled_TD = self._distilled(self._distill, embedding_TD, rows, passage_M)
        return found.loss + loss, grad_TD + distilled_TD

    def _masks(self, rows: Rows, passage_M: Rows, device: torch.device) -> tuple[Masks, Terms]:
        """What is no negative in this batch, and the terms that the masks leave to be taken."""
        import torch

        count, query_B = len(rows), self._query_N[rows]
        terms, masks = self._terms, Masks()
        if self._guide is not None:
            masks = self._guide.masks(query_B, passage_M, terms, device)

        def with_pairs(mask_BM: Tensor | None, width: int, row: Rows, column: Rows) -> Tensor | None:
            if not len(row):
                return mask_BM
            mask_BM = torch.zeros(count, width, dtype=torch.bool, device=device) if mask_BM is None else mask_BM
            mask_BM[torch.from_numpy(row).to(device), torch.from_numpy(column).to(device)] = True
            return mask_BM

        row, column = self._related.pairs(query_B, passage_M)
        passages = with_pairs(masks.passages, len(passage_M), row, column)
        queries, siblings = masks.queries, masks.siblings
        shared = column < count  # the answer of another query of the batch: the two ask for the same
        if terms.query_query:
            queries = with_pairs(queries, count, row[shared], column[shared])
            queries = with_pairs(queries, count, column[shared], row[shared])
        if terms.passage_passage:
            siblings = with_pairs(siblings, len(passage_M), row, column)
            siblings = with_pairs(siblings, len(passage_M), column[shared], row[shared])
            column_BK = places(passage_M, self._negatives_of(rows))
            own = np.nonzero(column_BK != ABSENT)
            siblings = with_pairs(siblings, len(passage_M), own[0], column_BK[own])
        if not terms.in_batch:
            mined_B = np.isin(passage_M[:count], self._negatives_of(rows))
            if mined_B.any():  # some positives are hard negatives of other queries, and stay
                terms = replace(terms, in_batch=True)
                row, column = np.indices((count, int((~mined_B).sum()))).reshape(2, -1)
                passages = with_pairs(passages, len(passage_M), row, np.flatnonzero(~mined_B)[column])
        return Masks(passages, queries, siblings), terms

    def _distilled(
        self, distill: ScoreDistillation, embedding_TD: Tensor, rows: Rows, passage_M: Rows
    ) -> tuple[float, Tensor]:
        """Distillation of the teacher's scores of the whole batch, at every dimension, and its gradient [T, D]."""
        import torch

        column_BC = distill.columns(rows, passage_M)
        chosen = np.flatnonzero((column_BC[:, 0] != ABSENT) & (column_BC[:, 1:] != ABSENT).any(axis=1))
        if not len(chosen):
            return 0.0, torch.zeros_like(embedding_TD)
        device, column_bC = embedding_TD.device, column_BC[chosen]
        mask_bC = torch.from_numpy(column_bC == ABSENT).to(device)
        teacher_bC = torch.from_numpy(np.nan_to_num(distill.scores[rows[chosen]])).to(device)
        query_b = torch.from_numpy(chosen).to(device)
        place_bC = torch.from_numpy(len(rows) + column_bC.clip(min=0)).to(device)

        def at_dimension(embedding_Td: Tensor) -> Tensor:
            cosine_bC = listed_cosines(embedding_Td[query_b], embedding_Td[place_bC])
            if distill.kind == "margin":
                return margin_distillation(cosine_bC, teacher_bC, mask_bC)
            scale = self._temperature.tensor(device)
            return kl_distillation(scale * cosine_bC, teacher_bC / distill.temperature, mask_bC)

        weights = [distill.weight * weight for weight in self._matryoshka.weights]
        return value_and_gradient(
            lambda leaf_TD: matryoshka(at_dimension, (leaf_TD,), self._matryoshka.dims, weights, reduction="sum"),
            embedding_TD,
        )

    def _passages(self, rows: Rows) -> Rows:
        positive_B = self._positive_N[rows]
        mined = np.unique(self._negatives_of(rows))
        return np.concatenate([positive_B, np.setdiff1d(mined[mined != ABSENT], positive_B)])


class Related:
    """What is known to be relevant: a query's own text and all of its positives are never its negatives."""

    def __init__(self, query_N: Rows, positive_N: Rows) -> None:
        order = np.lexsort((positive_N, query_N))
        self._query_N, self._positive_N = query_N[order], positive_N[order]

    def pairs(self, query_B: Rows, candidate_M: Rows) -> tuple[Rows, Rows]:
        """Rows and columns where candidate m is no negative of query b; candidate b is its positive, and not named.

        The candidates are distinct.
        """
        start_B = np.searchsorted(self._query_N, query_B, side="left")
        count_B = np.searchsorted(self._query_N, query_B, side="right") - start_B
        within = np.arange(count_B.sum()) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        row = np.repeat(np.arange(len(query_B)), count_B)
        row = np.concatenate([np.arange(len(query_B)), row])
        text = np.concatenate([query_B, self._positive_N[np.repeat(start_B, count_B) + within]])
        column = places(candidate_M, text)
        found = (candidate_M[column] == text) & (column != row)
        return row[found], column[found]


class Temperature:
    """The scale of the scores, fixed or learned."""

    def __init__(self, scale: float, learned: bool) -> None:
        import torch

        self._scale, self._most = scale, math.log(max(scale, 100.0))
        self._log_scale = torch.tensor(math.log(scale), requires_grad=True) if learned else None

    @property
    def parameters(self) -> dict[str, Tensor]:
        """log(scale), if it is learned."""
        return {} if self._log_scale is None else {"retrieval.log_scale": self._log_scale}

    def scale(self) -> float:
        """Its present value, which is not above the limit."""
        import torch

        if self._log_scale is None:
            return self._scale
        with torch.no_grad():
            return math.exp(float(self._log_scale.clamp_(max=self._most)))

    def tensor(self, device: torch.device) -> Tensor | float:
        """The same, for autograd to go through."""
        return self._scale if self._log_scale is None else self._log_scale.exp().to(device)

    def learn(self, gradient: float) -> None:
        """Add the gradient of a loss with respect to log(scale)."""
        import torch

        if self._log_scale is not None:
            earlier = self._log_scale.grad
            self._log_scale.grad = torch.tensor(gradient) if earlier is None else earlier + gradient


def places(values_M: Rows, wanted_BK: Rows) -> Rows:
    """Where each wanted value stands among distinct ones [B, K]; ``ABSENT`` stays."""
    order_M = np.argsort(values_M, kind="stable")
    place_BK = np.searchsorted(values_M[order_M], wanted_BK).clip(max=len(values_M) - 1)
    return np.where(wanted_BK == ABSENT, ABSENT, order_M[place_BK])


class Similarity:
    """CoSENT over graded pairs: store rows of both sides [N], label [N], higher = more alike."""

    def __init__(
        self,
        left_N: Rows,
        right_N: Rows,
        label_N: npt.NDArray[np.float64],
        repeat_N: Rows,
        batch_size: int,
        scale: float,
        matryoshka: Matryoshka,
        weight: float,
    ) -> None:
        self._left_N, self._right_N, self._label_N = left_N, right_N, label_N
        self._scale, self._matryoshka, self._weight = scale, matryoshka, weight
        self.parameters: Mapping[str, Tensor] = {}
        self.negatives = None
        self.task = TaskRows("cosent", np.zeros((len(left_N), 0), dtype=np.uint64), batch_size, repeat_N)

    def texts(self, rows: Rows) -> Texts:
        """Left texts, then right texts."""
        return Texts.of(np.concatenate([self._left_N[rows], self._right_N[rows]]), SYMMETRIC)

    def loss(self, embedding_TD: Tensor, rows: Rows, share: slice) -> tuple[float, Tensor]:
        """CoSENT of the batch at every dimension, times the task's weight."""
        import torch

        label_B = torch.from_numpy(self._label_N[rows]).to(embedding_TD.device)

        def value(embedding_TD: Tensor) -> Tensor:
            left_BD, right_BD = embedding_TD[: len(rows)], embedding_TD[len(rows) :]
            return matryoshka(
                partial(cosent, label_B=label_B, scale=self._scale),
                (left_BD, right_BD),
                self._matryoshka.dims,
                [self._weight * weight for weight in self._matryoshka.weights],
                reduction="sum",
            )

        return value_and_gradient(value, embedding_TD, share.stop == len(rows))


class ClassContrast:
    """A text against its label text and other label texts: store rows [N], [N], [N, K] (``ABSENT`` pads)."""

    def __init__(
        self,
        text_N: Rows,
        label_N: Rows,
        other_NK: Rows,
        repeat_N: Rows,
        batch_size: int,
        scale: float,
        matryoshka: Matryoshka,
        weight: float,
    ) -> None:
        self._text_N, self._class_NC = text_N, np.concatenate([label_N[:, None], other_NK], axis=1)
        self._scale, self._matryoshka, self._weight = scale, matryoshka, weight
        self.parameters: Mapping[str, Tensor] = {}
        self.negatives = None
        self.task = TaskRows("cls_contrast", np.zeros((len(text_N), 0), dtype=np.uint64), batch_size, repeat_N)

    def texts(self, rows: Rows) -> Texts:
        """Texts, then the distinct label texts of the batch in ascending order."""
        return Texts.of(np.concatenate([self._text_N[rows], self._labels(rows)]), SYMMETRIC)

    def loss(self, embedding_TD: Tensor, rows: Rows, share: slice) -> tuple[float, Tensor]:
        """Class contrast of the batch at every dimension, times the task's weight."""
        import torch

        class_BC = self._class_NC[rows]
        labels, device = self._labels(rows), embedding_TD.device
        place_BC = torch.from_numpy(np.searchsorted(labels, class_BC).clip(max=len(labels) - 1)).to(device)
        mask_BC = torch.from_numpy(class_BC == ABSENT).to(device)

        def value(embedding_TD: Tensor) -> Tensor:
            text_BD, label_LD = embedding_TD[: len(rows)], embedding_TD[len(rows) :]
            return matryoshka(
                partial(class_contrast, scale=self._scale, mask_BC=mask_BC),
                (text_BD, label_LD[place_BC]),
                self._matryoshka.dims,
                [self._weight * weight for weight in self._matryoshka.weights],
                reduction="sum",
            )

        return value_and_gradient(value, embedding_TD, share.stop == len(rows))

    def _labels(self, rows: Rows) -> Rows:
        distinct: Rows = np.unique(self._class_NC[rows])
        named: Rows = distinct[distinct != ABSENT]
        return named


class Distillation:
    """Regression of the student onto a teacher: store rows [N], the teacher's vectors [N, E] in principal axes."""

    def __init__(
        self,
        text_N: Rows,
        target_NE: npt.NDArray[np.float32],
        batch_size: int,
        matryoshka: Matryoshka,
    ) -> None:
        self._text_N, self._target_NE, self._matryoshka = text_N, target_NE, matryoshka
        once_N = np.ones(len(text_N), dtype=np.int64)
        self.parameters: Mapping[str, Tensor] = {}
        self.negatives = None
        self.task = TaskRows("distill", np.zeros((len(text_N), 0), dtype=np.uint64), batch_size, once_N)

    def texts(self, rows: Rows) -> Texts:
        """The texts themselves."""
        return Texts.of(self._text_N[rows], SYMMETRIC)

    def loss(self, embedding_TD: Tensor, rows: Rows, share: slice) -> tuple[float, Tensor]:
        """1 − cosine of student and teacher, at every dimension."""
        import torch

        target_BE = torch.from_numpy(self._target_NE[rows]).to(embedding_TD.device)
        dims, weights = self._matryoshka.dims, self._matryoshka.weights
        return value_and_gradient(
            lambda student_BD: matryoshka(distillation, (student_BD, target_BE), dims, weights, reduction="sum"),
            embedding_TD,
            share.stop == len(rows),
        )
