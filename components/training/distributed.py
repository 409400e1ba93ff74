"""The processes that train together: who encodes what, and how embeddings and gradients meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """This process among ``size``; alone, every operation is the identity."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes, logs and holds locks."""
        return self.rank == 0

    def place(self, lengths_T: npt.NDArray[np.int64]) -> Ranks:
        """The rank that encodes each text [T], so that every rank has about as many tokens."""
        return np.zeros(len(lengths_T), dtype=np.int64)

    def gather(self, own_TD: Tensor, rank_T: Ranks) -> Tensor:
        """All embeddings of the step [T, D], given this rank's own in text order; no gradient flows through."""
        return own_TD

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over the processes, in place."""
        return tensor

    def share(self, count: int) -> slice:
        """This process's contiguous part of ``count`` items."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)
