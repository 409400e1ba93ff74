"""False negatives by a guide: passages that another encoder takes for answers are left out of the loss.

GISTEmbed (Solatorio 2024). A text is no negative of a query if the guide finds it more alike than it finds the query's
own positive, less a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from components.training.encoder import Encoder
from components.training.lanes import in_lanes, share
from components.training.losses import Masks, Terms
from components.training.products import product
from components.training.vectors import TEACHER_CACHE, encode_cached

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Guide:
    """The guide's unit vectors float32 [T, E] of texts with these store rows, ascending [T]; and when it objects.

    ``absolute``: above the positive's cosine less ``margin``; ``relative``: above that cosine less its ``margin``-th
    part. The definitions, and both signs of a cosine, are those of sentence-transformers' GISTEmbedLoss.
    """

    rows: Rows
    vectors: npt.NDArray[np.float32]
    kind: Literal["absolute", "relative"] = "absolute"
    margin: float = 0.0

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        texts: Sequence[str],
        rows: Rows,
        kind: Literal["absolute", "relative"],
        margin: float,
        workers: int = 1,
        advance: Callable[[int], None] | None = None,
        cache_dir: str | Path = TEACHER_CACHE,
    ) -> Guide:
        """The guide of texts whose store rows are ``rows``; each text is embedded once, whoever asked for it before."""
        vectors_TE = encode_cached(encoder, texts, cache_dir, workers, advance)
        order = np.argsort(rows)
        return cls(rows[order], vectors_TE[order], kind, margin)

    def masks(self, query_B: Rows, passage_M: Rows, terms: Terms, device: torch.device | str = "cpu") -> Masks:
        """What is no negative in a batch, by store rows, for these terms; passage b < B is the positive of query b.

        A query whose own vector or whose positive's is zero, because the guide knows no token of it, masks nothing.
        """
        import torch

        count = len(query_B)
        query_BE, passage_ME = self._vectors(query_B, device), self._vectors(passage_M, device)
        own_B = (query_BE * passage_ME[:count]).sum(1)
        limit_B = own_B - self.margin * (own_B.abs() if self.kind == "relative" else 1.0)
        blank_B = ~(query_BE.any(1) & passage_ME[:count].any(1))
        limit_B1 = limit_B.masked_fill(blank_B, torch.inf)[:, None]
        return Masks(
            _above(query_BE, passage_ME, limit_B1),
            _above(query_BE, query_BE, limit_B1) if terms.query_query else None,
            _above(passage_ME[:count], passage_ME, limit_B1) if terms.passage_passage else None,
        )

    def _vectors(self, rows: Rows, device: torch.device | str) -> Tensor:
        import torch

        return torch.from_numpy(self.vectors[np.searchsorted(self.rows, rows)]).to(device)


def _above(left_BE: Tensor, right_ME: Tensor, limit_B1: Tensor) -> Tensor:
    """Whether the cosine is above the row's limit, bool [B, M]."""
    import torch

    if left_BE.device.type != "cpu":
        return product(left_BE, right_ME) > limit_B1
    above_BM = torch.empty(len(left_BE), len(right_ME), dtype=torch.bool)

    def work(lane: int) -> None:
        rows = share(len(left_BE), lane)
        if rows.stop > rows.start:
            above_BM[rows] = product(left_BE[rows], right_ME) > limit_B1[rows]

    in_lanes(work)
    return above_BM
