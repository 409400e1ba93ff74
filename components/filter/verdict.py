"""The verdict that the stages of the filter pass on the rows of one shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.filter.reasons import KEPT, REASONS

Mask = NDArray[np.bool_]


@dataclass
class Verdict:
    """For each of N rows the code of the reason it is dropped for (KEPT if none yet) and a detail for a person.

    A code is an index into `reasons`: those of the stages, then those of the classifiers that the parameters name.
    """

    codes: NDArray[np.uint8]
    details: list[str | None]
    reasons: tuple[str, ...] = REASONS

    @classmethod
    def keep_all(cls, rows: int, classifiers: Sequence[str] = ()) -> Verdict:
        """Nothing dropped yet."""
        return cls(np.zeros(rows, np.uint8), [None] * rows, (*REASONS, *classifiers))

    @property
    def kept(self) -> Mask:
        """Rows that no stage has dropped, bool [N]."""
        return np.equal(self.codes, KEPT)

    def drop(self, mask: Mask, reason: str, details: Sequence[str | None] | None = None) -> None:
        """Drop the rows of `mask` [N] that are still kept; `details` [N] is put beside the reason."""
        rows = np.flatnonzero(mask & self.kept)
        self.codes[rows] = self.reasons.index(reason)
        if details is not None:
            for row in rows.tolist():
                self.details[row] = details[row]
