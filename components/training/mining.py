"""Offline hard-negative mining: passages that the present model ranks high for a query without being its answer.

The very best ranks hold unlabelled answers more often than hard negatives, so the ranks before ``first`` are skipped,
and so is every passage that scores nearly as high as the query's own positive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.training.corpus import ABSENT, Rows
from components.training.static import bag_mean
from components.training.tokens import TokenStore

if TYPE_CHECKING:
    from torch import Tensor

_EXACT = 20_000  # passages up to which an exact search costs less than building an inverted index
_PROBES = 24  # inverted lists read for a query
_CHUNK = 8192

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """Candidate ranks ``first`` (from 0) up to ``last`` (exclusive); the ceiling relative to the positive's score."""

    first: int
    last: int
    ceiling: float


def mine(
    query_ND: Vectors, positive_N: Rows, passage_PD: Vectors, passage_P: Rows, query_N: Rows, window: Window, count: int
) -> Rows:
    """Hard negatives of each query: store rows [N, count], padded with ``ABSENT``.

    ``query_ND`` and ``passage_PD`` are unit vectors; ``passage_P`` the passages' store rows, ascending; ``query_N`` and
    ``positive_N`` the store rows of each training pair. A passage is left out if any pair has it as the positive of
    the same query text, if it is the query's text itself, or if it scores above ``ceiling`` × the positive's score.
    """
    score_NR, place_NR = _search(passage_PD, query_ND, window.last)
    candidate_NR = np.where(place_NR < 0, ABSENT, passage_P[place_NR])
    own_score_N = np.einsum("nd,nd->n", query_ND, passage_PD[np.searchsorted(passage_P, positive_N)])
    allowed_NR = (place_NR >= 0) & (candidate_NR != query_N[:, None])
    allowed_NR &= ~_known(query_N, positive_N, candidate_NR)
    allowed_NR &= score_NR <= window.ceiling * own_score_N[:, None]
    allowed_NR[:, : window.first] = False
    order_NR = np.argsort(~allowed_NR, axis=1, kind="stable")[:, :count]
    chosen_NK = np.take_along_axis(np.where(allowed_NR, candidate_NR, ABSENT), order_NR, axis=1)
    return np.pad(chosen_NK, ((0, 0), (0, count - chosen_NK.shape[1])), constant_values=ABSENT)


def unit_vectors(weight_VD: Tensor, store: TokenStore, rows: Rows, dims: int) -> Vectors:
    """Normalised embeddings of the store's texts at ``rows``, cut to the leading ``dims``, float32 [N, dims]."""
    from torch.nn.functional import normalize

    vectors_ND = np.empty((len(rows), dims), dtype=np.float32)
    head_VD = weight_VD[:, :dims].contiguous()
    for start in range(0, len(rows), _CHUNK):
        mean_BD = bag_mean(head_VD, store.bags(rows[start : start + _CHUNK]))
        vectors_ND[start : start + _CHUNK] = normalize(mean_BD, dim=1).numpy()
    return vectors_ND


def _search(passage_PD: Vectors, query_ND: Vectors, depth: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """The ``depth`` best passages of each query by inner product: scores and places [N, R], best first, −1 for none."""
    import faiss

    count, dims = passage_PD.shape
    depth = min(depth, count)
    if count <= _EXACT:
        index: Any = faiss.IndexFlatIP(dims)
    else:
        lists = int(4 * np.sqrt(count))
        centroids = faiss.IndexFlatIP(dims)  # the index does not own it: it must live as long
        index = faiss.IndexIVFFlat(centroids, dims, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = _PROBES
        index.cp.max_points_per_centroid = 40
        index.cp.seed = 1
        index.train(passage_PD)
    index.add(passage_PD)
    score_NR, place_NR = index.search(query_ND, depth)
    # faiss leaves the order of equal scores to chance
    order_NR = np.lexsort((place_NR, -score_NR), axis=1)
    return np.take_along_axis(score_NR, order_NR, axis=1), np.take_along_axis(place_NR, order_NR, axis=1)


def _known(query_N: Rows, positive_N: Rows, candidate_NR: Rows) -> npt.NDArray[np.bool_]:
    """Whether a pair names the candidate as a positive of this query's text [N, R]."""
    span = int(max(positive_N.max(), candidate_NR.max())) + 1
    return np.isin(query_N[:, None] * span + candidate_NR, query_N * span + positive_N)
