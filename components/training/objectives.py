"""What a batch of each task is trained on: the texts it needs, and loss and gradient on their embeddings.

Piccolo2's hybrid: retrieval pairs by InfoNCE with in-batch and hard negatives, graded pairs by CoSENT, classes by
contrast with other label texts only; and distillation of a teacher's vectors. Each runs at all Matryoshka dimensions.

Every process sees the embeddings of the whole batch and answers for a share of its rows: losses and gradients of all
shares add up to those of the batch. A loss that does not split by rows is left to the process with the last rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from components.training.corpus import ABSENT, Rows
from components.training.dynamic import HardNegatives, mean_cosines
from components.training.fused import fused_info_nce
from components.training.losses import (
    NO_MASKS,
    Masks,
    class_contrast,
    cosent,
    distillation,
    matryoshka,
    value_and_gradient,
)
from components.training.plan import TaskRows
from components.training.tokens import PASSAGE, QUERY, SYMMETRIC, Texts

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Matryoshka:
    """Ascending dimensions that the loss is taken at, and their weights, which already hold the reduction."""

    dims: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, dims: Sequence[int], reduction: str) -> Matryoshka:
        """Equal weights: their sum is 1 for ``mean``, the number of dimensions for ``sum``."""
        weight = 1.0 / len(dims) if reduction == "mean" else 1.0
        return cls(tuple(sorted(dims)), (weight,) * len(dims))


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

    These are fixed [N, K] (``ABSENT`` where a row has fewer), or are mined, watched and maybe replaced.
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
    ) -> None:
        self._query_N, self._positive_N = query_N, positive_N
        self.negatives = negatives if isinstance(negatives, HardNegatives) else None
        self._negatives_of = negatives.of if isinstance(negatives, HardNegatives) else negatives.__getitem__
        self._scale, self._matryoshka, self._bf16 = scale, matryoshka, bf16
        self.parameters: Mapping[str, Tensor] = {}
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
        mask_BM = self._related.mask(self._query_N[rows], passage_M)
        if self.negatives:
            columns_BK = places(passage_M, self.negatives.of(rows))
            self.negatives.observe(rows, *mean_cosines(embedding_TD[:count], embedding_TD[count:], columns_BK))
        found = fused_info_nce(
            embedding_TD[:count],
            embedding_TD[count:],
            self._scale,
            self._matryoshka.dims,
            self._matryoshka.weights,
            Masks(torch.from_numpy(mask_BM)) if mask_BM.any() else NO_MASKS,
            bf16=self._bf16,
            rows=share,
        )
        return found.loss, torch.cat([found.query_grad, found.passage_grad])

    def _passages(self, rows: Rows) -> Rows:
        positive_B = self._positive_N[rows]
        mined = np.unique(self._negatives_of(rows))
        return np.concatenate([positive_B, np.setdiff1d(mined[mined != ABSENT], positive_B)])


class Related:
    """What is known to be relevant: a query's own text and all of its positives are never its negatives."""

    def __init__(self, query_N: Rows, positive_N: Rows) -> None:
        order = np.lexsort((positive_N, query_N))
        self._query_N, self._positive_N = query_N[order], positive_N[order]

    def mask(self, query_B: Rows, candidate_M: Rows) -> npt.NDArray[np.bool_]:
        """True where candidate m is no negative of query b [B, M]; candidate b is the positive of query b."""
        mask_BM: npt.NDArray[np.bool_] = query_B[:, None] == candidate_M[None, :]
        starts_B = np.searchsorted(self._query_N, query_B, side="left")
        stops_B = np.searchsorted(self._query_N, query_B, side="right")
        for b in np.flatnonzero(stops_B - starts_B > 1):
            mask_BM[b] |= np.isin(candidate_M, self._positive_N[starts_B[b] : stops_B[b]])
        np.fill_diagonal(mask_BM, False)
        return mask_BM


def places(values_M: Rows, wanted_BK: Rows) -> Rows:
    """Where each wanted value stands among distinct ones [B, K]; ``ABSENT`` stays."""
    order_M = np.argsort(values_M)
    place_BK = np.searchsorted(values_M, wanted_BK, sorter=order_M).clip(max=len(values_M) - 1)
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

        label_B = torch.from_numpy(self._label_N[rows])

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
        place_BC = torch.from_numpy(np.searchsorted(self._labels(rows), class_BC).clip(max=len(self._labels(rows)) - 1))
        mask_BC = torch.from_numpy(class_BC == ABSENT)

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

        target_BE = torch.from_numpy(self._target_NE[rows])
        dims, weights = self._matryoshka.dims, self._matryoshka.weights
        return value_and_gradient(
            lambda student_BD: matryoshka(distillation, (student_BD, target_BE), dims, weights, reduction="sum"),
            embedding_TD,
            share.stop == len(rows),
        )
