"""Hard-negative mining: passages that the present model ranks high for a query without being its answer.

The very best ranks hold unlabelled answers more often than hard negatives, so the ranks before ``first`` are skipped,
and so is every passage that scores nearly as high as the query's own positive.

The search multiplies vectors rounded to whole numbers of eight bits, eight times as fast as fp32 where the processor
knows how, keeps half as many passages again as were asked for, and orders those by their fp32 scores. Sums of whole
numbers do not depend on their order, so neither threads nor blocks nor the processor change what is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.training.corpus import ABSENT, Rows
from components.training.lanes import LANES, in_lanes

EVERY = 100_000_000_000  # scores up to which every passage is looked at: a minute or two of one core
RECALL = 0.95  # share of the true best passages that the inverted lists must find in a sample of the queries

_SAMPLE = 64  # queries whose exact ranking says what the search finds
_ROWS, _COLUMNS = 256, 8192  # queries and passages multiplied at once: their scores stay in the processor's cache
_STRETCH = 16_384  # queries whose lists are read together, so that a list meets enough of them for one product
_RESCORED = 32  # queries whose candidates' vectors are held at once
_CHUNK = 8192
_PROBES = 16  # lists read for a query at first
_LARGEST = 127
_POINTS, _ROUNDS, _SEED = 40, 8, 1  # of k-means: passages a centroid, rounds, seed of the first centroids

Vectors = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Candidates = npt.NDArray[np.int32]
Codes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Window:
    """Candidate ranks ``first`` (from 0) up to ``last`` (exclusive); the ceiling relative to the positive's score."""

    first: int
    last: int
    ceiling: float


@dataclass(frozen=True)
class Ranking:
    """Candidates of each query, store rows [N, R], best first, ``ABSENT`` pads; how they were found, and how well.

    ``recall`` is the share of the true best passages found, measured on a sample of the queries.
    """

    candidates: Candidates
    index: str
    recall: float


class Known:
    """The known positives of every query text: what no filter may let through as a negative."""

    def __init__(self, query_N: Rows, positive_N: Rows) -> None:
        order = np.lexsort((positive_N, query_N))
        self._query_N, self._positive_N = query_N[order], positive_N[order]
        self._span = int(max(query_N.max(initial=0), positive_N.max(initial=0))) + 1

    def holds(self, query_B: Rows, candidate_BR: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Whether candidate r is the text of query b or a positive of that text [B, R]."""
        candidate_BR = candidate_BR.astype(np.int64)
        first_B = np.searchsorted(self._query_N, query_B, side="left")
        count_B = np.searchsorted(self._query_N, query_B, side="right") - first_B
        held_BR: npt.NDArray[np.bool_] = candidate_BR == query_B[:, None]
        one = np.flatnonzero(count_B)
        held_BR[one] |= candidate_BR[one] == self._positive_N[first_B[one], None]
        more = np.flatnonzero(count_B > 1)
        if len(more):
            rows = np.repeat(first_B[more], count_B[more]) + _ranges(count_B[more])
            pairs = self._query_N[rows] * self._span + self._positive_N[rows]
            # a candidate beyond the span is no positive, but its key could be another pair's
            inside = candidate_BR[more] < self._span
            held_BR[more] |= inside & np.isin(query_B[more, None] * self._span + candidate_BR[more], pairs)
        return held_BR


def rank(
    query_ND: Vectors,
    positive_N: Rows,
    passage_PD: Vectors,
    passage_P: Rows,
    query_N: Rows,
    window: Window,
    known: Known | None = None,
    device: str = "cpu",
    advance: Callable[[int], None] | None = None,
) -> Ranking:
    """The passages of ranks ``window.first`` to ``window.last`` that may be negatives of each query, best first.

    ``query_ND`` and ``passage_PD`` are unit vectors; ``passage_P`` the passages' store rows, ascending; ``query_N`` and
    ``positive_N`` the store rows of each training pair. A passage is left out if any pair has it as the positive of
    the same query text (pairs of ``known``, by default those given), if it is the query's text itself, or if it scores
    above ``ceiling`` × the positive's score. Equal scores are ordered by row. ``advance`` is told of queries done.
    """
    known = known or Known(query_N, positive_N)
    index = Index(passage_PD, query_ND, window.last, device)
    candidate_NR = np.full((len(query_N), min(window.last, len(passage_P))), ABSENT, dtype=np.int32)
    for start in range(0, len(query_N), index.stretch):
        part = slice(start, start + index.stretch)
        score_BR, place_BR = index.search(query_ND[part])
        positive_BD = passage_PD[np.searchsorted(passage_P, positive_N[part])]
        limit_B = window.ceiling * np.einsum("bd,bd->b", query_ND[part], positive_BD)
        found_BR = np.where(place_BR < 0, ABSENT, passage_P[place_BR])
        allowed_BR = (place_BR >= 0) & (score_BR <= limit_B[:, None]) & ~known.holds(query_N[part], found_BR)
        allowed_BR[:, : window.first] = False
        order_BR = np.argsort(~allowed_BR, axis=1, kind="stable")
        candidate_NR[part] = np.take_along_axis(np.where(allowed_BR, found_BR, ABSENT), order_BR, axis=1)
        if advance:
            advance(len(place_BR))
    return Ranking(candidate_NR, index.name, index.recall)


class Index:
    """The ``depth`` best of the passages [P, D] by inner product, for the queries [N, D].

    Up to `EVERY` scores, and always on a GPU, every passage is looked at; beyond, those of the nearest clusters:
    ``name`` says which. Twice as many clusters are read until the sample's recall is `RECALL`.
    """

    def __init__(self, passage_PD: Vectors, query_ND: Vectors, depth: int, device: str = "cpu") -> None:
        self._passage_PD, self._device = passage_PD, device
        self._depth = min(depth, len(passage_PD))
        self._keep = min(self._depth + max(self._depth // 2, 32), len(passage_PD))
        self._lists: _Lists | None = None
        self.stretch = _CHUNK
        sample = query_ND[np.linspace(0, len(query_ND) - 1, min(_SAMPLE, len(query_ND))).astype(np.int64)]
        if len(query_ND) * len(passage_PD) <= EVERY or device != "cpu":
            self._codes_PD = passage_codes(passage_PD)
            self.name = "every passage"
            self.recall = self._recall(sample, self._worst(sample))
            return
        self._lists = _Lists(passage_PD)
        self._codes_PD = passage_codes(passage_PD)[self._lists.places]
        self.stretch = _STRETCH * LANES
        worst_S1 = self._worst(sample)
        self.recall = self._recall(sample, worst_S1)
        while self.recall < RECALL and self._lists.probes < len(self._lists):
            self._lists.probes = min(2 * self._lists.probes, len(self._lists))
            self.recall = self._recall(sample, worst_S1)
        self.name = f"{self._lists.probes} of {len(self._lists)} clusters"

    def search(self, query_BD: Vectors) -> tuple[Vectors, Places]:
        """Scores and places of the best passages of each query [B, depth], best first, −1 for none."""
        place_BK = np.full((len(query_BD), self._keep), -1, dtype=np.int64)
        score_BR = np.full((len(query_BD), self._depth), -np.inf, dtype=np.float32)
        place_BR = np.full((len(query_BD), self._depth), -1, dtype=np.int64)
        codes_BD = query_codes(query_BD)
        size = _ROWS if self._lists is None else -(-len(query_BD) // LANES)

        def work(lane: int) -> None:
            for start in range(lane * size, len(query_BD), LANES * size):
                rows = slice(start, start + size)
                if self._lists is not None:
                    place_BK[rows] = self._lists.scan(codes_BD[rows], self._codes_PD, self._keep)
                elif self._device == "cpu":
                    place_BK[rows] = scan(codes_BD[rows], self._codes_PD, self._keep)
                for first in range(start, min(start + size, len(query_BD)), _RESCORED):
                    few = slice(first, min(first + _RESCORED, start + size))
                    score_BR[few], place_BR[few] = self._rescored(query_BD[few], place_BK[few])

        if self._device != "cpu":
            place_BK[:] = scan_on_device(codes_BD, self._codes_PD, self._keep, self._device)
        in_lanes(work)
        return score_BR, place_BR

    def _rescored(self, query_BD: Vectors, place_BK: Places) -> tuple[Vectors, Places]:
        """The best of the candidates by their fp32 scores, equal ones by place [B, depth]."""
        score_BK = np.einsum("bd,bkd->bk", query_BD, self._passage_PD[place_BK])
        score_BK[place_BK < 0] = -np.inf
        order_BR = np.lexsort((place_BK, -score_BK), axis=1)[:, : self._depth]
        return np.take_along_axis(score_BK, order_BR, axis=1), np.take_along_axis(place_BK, order_BR, axis=1)

    def _worst(self, sample_SD: Vectors) -> Vectors:
        """Score of the last of the true best passages of each query [S, 1], by products in fp32."""
        import torch

        sample, best_SR = torch.from_numpy(sample_SD), torch.empty(len(sample_SD), 0)
        for part in _parts(self._passage_PD):
            score_SM = sample @ torch.from_numpy(np.ascontiguousarray(part)).T
            best_SR = torch.cat([best_SR, score_SM], 1)
            best_SR = best_SR.topk(min(self._depth, best_SR.shape[1]), dim=1, sorted=False)[0]
        worst_S1: Vectors = best_SR.min(dim=1, keepdim=True)[0].numpy()
        return worst_S1

    def _recall(self, sample_SD: Vectors, worst_S1: Vectors) -> float:
        """Share of the true best passages that the search finds; equally good ones count."""
        return round(float((self.search(sample_SD)[0] >= worst_S1 - 1e-6).mean()), 4)


class _Lists:
    """Passages by cluster: ``places`` [P] in the order of their lists, the centroids' codes, lists read a query."""

    def __init__(self, passage_PD: Vectors) -> None:
        rng = np.random.default_rng(_SEED)
        lists = min(int(4 * np.sqrt(len(passage_PD))), len(passage_PD))
        self.probes = min(_PROBES, lists)
        sample = rng.choice(len(passage_PD), min(len(passage_PD), _POINTS * lists), replace=False)
        centroid_LD = passage_PD[sample[:lists]]
        sample_SD = passage_PD[np.sort(sample)]
        for _ in range(_ROUNDS):
            nearest_S = _nearest(sample_SD, centroid_LD)
            order_S = np.argsort(nearest_S, kind="stable")
            filled, first = np.unique(nearest_S[order_S], return_index=True)
            sums_FD = np.add.reduceat(sample_SD[order_S], first, axis=0)
            centroid_LD = centroid_LD.copy()  # an empty cluster stays where it was
            centroid_LD[filled] = sums_FD / np.maximum(np.linalg.norm(sums_FD, axis=1, keepdims=True), 1e-12)
        nearest_P = _nearest(passage_PD, centroid_LD)
        self.places = np.argsort(nearest_P, kind="stable")
        self._edges = np.searchsorted(nearest_P[self.places], np.arange(lists + 1))
        self._codes_LD = passage_codes(centroid_LD)

    def __len__(self) -> int:
        return len(self._codes_LD)

    def scan(self, codes_BD: Codes, codes_PD: Codes, keep: int) -> Places:
        """Places of the ``keep`` best passages of each query in its nearest lists [B, keep]; ``codes_PD`` by list."""
        probes = self.probes
        list_BL = np.empty((len(codes_BD), probes), dtype=np.int64)
        for start in range(0, len(codes_BD), _ROWS):
            score = products(codes_BD[start : start + _ROWS], self._codes_LD)
            list_BL[start : start + _ROWS] = np.argpartition(-score, probes - 1, axis=1)[:, :probes]
        order = np.argsort(list_BL.ravel(), kind="stable")
        edges = np.searchsorted(list_BL.ravel()[order], np.arange(len(self) + 1))
        best = _Best(len(codes_BD), keep, len(codes_PD))
        for number in range(len(self)):
            rows = order[edges[number] : edges[number + 1]] // probes
            first, last = self._edges[number : number + 2]
            for start in range(0, len(rows) if last > first else 0, _COLUMNS):
                some = rows[start : start + _COLUMNS]
                best.offer(products(codes_BD[some], codes_PD[first:last]), int(first), some)
        place_BK = best.places()
        return np.where(place_BK < 0, -1, self.places[place_BK])


class _Best:
    """The best columns of every row so far. An entry is one number: its row, then its score descending, its column.

    What scores no better than the worst of a full row is passed over, so little is kept; entries are sorted and cut
    when twice as many as needed have come together.
    """

    def __init__(self, rows: int, keep: int, columns: int) -> None:
        self._rows, self._keep = rows, keep
        self._column_bits = columns.bit_length()
        self._shift = 63 - rows.bit_length()
        # the largest score told from a larger one; entries hold top − score
        self._top = (1 << min(self._shift - self._column_bits - 1, 30)) - 1
        self._worst_B = np.full(rows, np.iinfo(np.int32).min, dtype=np.int32)
        self._entries: list[npt.NDArray[np.int64]] = []
        self._held = 0

    def offer(self, score_bM: npt.NDArray[np.int32], first: int, rows: Places | None = None) -> None:
        """Take the scores of columns ``first`` …, for all rows or for ``rows``."""
        width = score_bM.shape[1]
        if rows is None and not self._held and width > self._keep:
            self._worst_B[:] = np.partition(score_bM, width - self._keep, axis=1)[:, width - self._keep] - 1
        worst_b = self._worst_B if rows is None else self._worst_B[rows]
        flat = np.flatnonzero(score_bM > worst_b[:, None])
        row = flat // width
        column = flat - row * width
        score = np.clip(score_bM.ravel()[flat].astype(np.int64), -self._top, self._top)
        row = row if rows is None else rows[row]
        self._entries.append(row << self._shift | (self._top - score) << self._column_bits | (column + first))
        self._held += len(flat)
        if self._held > 2 * self._keep * self._rows:
            self._cut()

    def places(self) -> Places:
        """Columns of the best of every row [rows, keep], best first, −1 for none."""
        row, rank = self._cut()
        place = np.full((self._rows, self._keep), -1, dtype=np.int64)
        place[row, rank] = self._entries[0] & ((1 << self._column_bits) - 1)
        return place

    def _cut(self) -> tuple[Places, Places]:
        """Sort the entries, leave the best of every row: their rows and ranks."""
        entries = np.sort(np.concatenate(self._entries or [np.zeros(0, dtype=np.int64)]))
        row = entries >> self._shift
        rank = np.arange(len(row)) - np.searchsorted(row, np.arange(self._rows))[row]
        kept = rank < self._keep
        entries, row, rank = entries[kept], row[kept], rank[kept]
        last = rank == self._keep - 1
        score = self._top - (entries[last] >> self._column_bits & ((1 << self._shift - self._column_bits) - 1))
        self._worst_B[row[last]] = score
        self._entries, self._held = [entries], len(entries)
        return row, rank


def passage_codes(vector_PD: Vectors) -> Codes:
    """Vectors as whole numbers of one scale, less their mean: that changes every score of a query by the same amount.

    Without the part that all vectors share, the eight bits are spent on what tells them apart.
    """
    mean_D = vector_PD.mean(axis=0, dtype=np.float64).astype(np.float32)
    largest = max((float(np.abs(part - mean_D).max()) for part in _parts(vector_PD)), default=0.0) or 1.0
    codes_PD = np.empty(vector_PD.shape, dtype=np.int8)
    for start in range(0, len(vector_PD), _CHUNK):
        part = vector_PD[start : start + _CHUNK]
        codes_PD[start : start + _CHUNK] = np.rint((part - mean_D) * np.float32(_LARGEST / largest))
    return codes_PD


def query_codes(vector_ND: Vectors) -> Codes:
    """Vectors as whole numbers, each of its own scale."""
    largest_N1 = np.abs(vector_ND).max(axis=1, keepdims=True)
    return np.rint(vector_ND * (_LARGEST / np.where(largest_N1 > 0, largest_N1, 1))).astype(np.int8)


def products(left_BD: Codes, right_MD: Codes) -> npt.NDArray[np.int32]:
    """Inner products of codes [B, M], exact."""
    import torch

    left, right = torch.from_numpy(left_BD), torch.from_numpy(right_MD)
    if torch.cpu._is_vnni_supported():
        return torch._int_mm(left, right.T).numpy()
    # fp32 sums of these whole numbers are exact below 2²⁴
    return (left.float() @ right.T.float()).int().numpy()


def scan_on_device(codes_ND: Codes, codes_PD: Codes, keep: int, device: str) -> Places:
    """Places of the ``keep`` best passages of each query [N, keep], by products and partial sorts on a GPU."""
    import torch

    query_ND = torch.from_numpy(codes_ND).to(device).float()
    score_NK = query_ND.new_zeros(len(codes_ND), 0)
    place_NK = torch.zeros(len(codes_ND), 0, dtype=torch.int64, device=device)
    for start in range(0, len(codes_PD), 4 * _COLUMNS):
        score_NM = query_ND @ torch.from_numpy(codes_PD[start : start + 4 * _COLUMNS]).to(device).float().T
        score_NM, column_NM = score_NM.topk(min(keep, score_NM.shape[1]), dim=1)
        score_NK, place_NK = torch.cat([score_NK, score_NM], 1), torch.cat([place_NK, column_NM + start], 1)
        score_NK, chosen_NK = score_NK.topk(min(keep, score_NK.shape[1]), dim=1)
        place_NK = place_NK.gather(1, chosen_NK)
    return place_NK.cpu().numpy()


def scan(codes_BD: Codes, codes_PD: Codes, keep: int) -> Places:
    """Places of the ``keep`` best passages of each query [B, keep], best first, equal ones by place."""
    best = _Best(len(codes_BD), keep, len(codes_PD))
    for start in range(0, len(codes_PD), _COLUMNS):
        best.offer(products(codes_BD, codes_PD[start : start + _COLUMNS]), start)
    return best.places()


def _nearest(vector_ND: Vectors, centroid_LD: Vectors) -> Places:
    """The centroid of the largest inner product with each vector [N]."""
    nearest_N = np.empty(len(vector_ND), dtype=np.int64)
    codes_LD = passage_codes(centroid_LD)

    def work(lane: int) -> None:
        for start in range(lane * _ROWS, len(vector_ND), LANES * _ROWS):
            codes_BD = query_codes(vector_ND[start : start + _ROWS])
            nearest_N[start : start + _ROWS] = products(codes_BD, codes_LD).argmax(axis=1)

    in_lanes(work)
    return nearest_N


def _parts(vector_ND: Vectors) -> Iterator[Vectors]:
    for start in range(0, len(vector_ND), _CHUNK):
        yield vector_ND[start : start + _CHUNK]


def _ranges(count_B: Places) -> Places:
    """0 … count − 1 of every count, end to end."""
    ends_B = np.cumsum(count_B)
    return np.arange(ends_B[-1]) - np.repeat(ends_B - count_B, count_B)
