"""Measures of embeddings: exact retrieval over a whole corpus, and rank correlation, at any number of dimensions.

Retrieval metrics follow trec_eval: nDCG with linear gains and the ideal order of all judged passages (cut at 10),
recall@k as a share of all relevant passages, reciprocal rank cut at 10, average precision cut at 100 and divided by
the number of relevant passages. Every passage of the corpus is ranked for every query; of equally scored passages the
one with the lower index comes first. All values are in percent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError
from components.core.prompts import Prompts, wrap
from components.core.suite import RetrievalTask, StsTask, Task, task_texts

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
Scores = dict[str, float]

CUT_NDCG = 10
CUT_MRR = 10
CUT_MAP = 100
CUTS_RECALL = (1, 10, 100)
# Queries scored at once: a block of scores of 512 queries and 20,000 passages takes 40 MB.
BLOCK = 512
DIGITS = 4


class TextEncoder(Protocol):
    """What is measured: texts [N] in, L2-normalised vectors [N, dims] out."""

    def encode(self, texts: Sequence[str]) -> Floats: ...


@dataclass(frozen=True)
class Embedded:
    """Both sides of a task as vectors: [Q, D] and [P, D] for retrieval, [N, D] and [N, D] for similarity."""

    left: Floats
    right: Floats


def main_metric(task: Task) -> str:
    """The metric that stands for a task in tables and in the headline score."""
    return "ndcg_at_10" if isinstance(task, RetrievalTask) else "spearman"


def measure(
    encoder: TextEncoder, tasks: Sequence[Task], dims: Sequence[int], prompts: Prompts
) -> dict[str, dict[int, Scores]]:
    """Measure an encoder on every task, its texts within ``prompts``: {task: {dimension: {metric: percent}}}.

    Dimensions above the encoder's own are left out; its own is always among them.
    """
    return {
        task.name: measure_embedded(task, embedded, dims)
        for task, embedded in zip(tasks, embed_tasks(encoder, tasks, prompts), strict=True)
    }


def embed_tasks(encoder: TextEncoder, tasks: Sequence[Task], prompts: Prompts) -> list[Embedded]:
    """Encode the texts of all tasks with the prompts of their sides, each once even where tasks share it."""
    worded = [_worded(task, prompts) for task in tasks]
    rows: dict[str, int] = {}
    for sides in worded:
        for side in sides:
            for text in side:
                rows.setdefault(text, len(rows))
    vectors = encoder.encode(list(rows))
    if not np.isfinite(vectors).all():  # no comparison with NaN is true, so that it would rank first everywhere
        raise InputError("the encoder gives vectors with NaN or infinity, which cannot be ranked; train it again")
    places = [[np.array([rows[text] for text in side]) for side in sides] for sides in worded]
    return [Embedded(vectors[left], vectors[right]) for left, right in places]


def _worded(task: Task, prompts: Prompts) -> tuple[list[str], list[str]]:
    """Both sides of a task as the encoder is to read them."""
    left, right = task_texts(task)
    if isinstance(task, RetrievalTask):
        return wrap(prompts.query, left), wrap(prompts.passage, right)
    return wrap(prompts.symmetric, left), wrap(prompts.symmetric, right)


def measure_embedded(task: Task, embedded: Embedded, dims: Sequence[int]) -> dict[int, Scores]:
    """Measure the vectors of one task, truncated to each dimension and normalised again, largest dimension first."""
    native = embedded.left.shape[1]
    wanted = sorted({native, *(dim for dim in dims if dim < native)}, reverse=True)
    if isinstance(task, StsTask):
        left, right = embedded.left, embedded.right
        return {dim: {"spearman": sts_spearman(left[:, :dim], right[:, :dim], task.labels)} for dim in wanted}
    judgements = Judgements.of(task)
    ranks = _ranks_by_dim(embedded, judgements, sorted(wanted))
    return {dim: judgements.metrics(ranks[dim]) for dim in wanted}


def ranking_metrics(blocks: Iterable[Floats], task: RetrievalTask) -> Scores:
    """Metrics of any system from its scores [Q, P], given as consecutive blocks of rows."""
    import torch

    judgements = Judgements.of(task)
    ranks = np.empty(len(judgements.query), np.int64)
    start = 0
    for block in blocks:
        part = judgements.within(start, start + len(block))
        ranks[part] = _ranks(torch.from_numpy(block), judgements.query[part] - start, judgements.passage[part])
        start += len(block)
    return judgements.metrics(ranks)


def relevant_ranks(embedded: Embedded, task: RetrievalTask) -> list[dict[int, int]]:
    """For each query the rank (from 1) of every relevant passage: passage index → rank."""
    judgements = Judgements.of(task)
    native = embedded.left.shape[1]
    found: list[dict[int, int]] = [{} for _ in task.qrels]
    ranks = _ranks_by_dim(embedded, judgements, [native])[native]
    for row, passage, rank in zip(judgements.query.tolist(), judgements.passage.tolist(), ranks.tolist(), strict=True):
        found[row][passage] = rank
    return found


def sts_spearman(left: Floats, right: Floats, labels: Sequence[float]) -> float:
    """Spearman's rank correlation of cosine and label over pairs [N, D], in percent; ties get their average rank."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines = np.einsum("nd,nd->n", left, right) / np.maximum(norms, np.finfo(np.float32).tiny)
    return spearman(cosines, labels)


def spearman(scores: Sequence[float] | NDArray[Any], labels: Sequence[float]) -> float:
    """Spearman's rank correlation in percent; 0 where one side is constant."""
    # cosines that differ by rounding alone (identical pairs) are ties
    first, second = _average_ranks(np.round(np.asarray(scores, np.float64), 6)), _average_ranks(np.asarray(labels))
    first, second = first - first.mean(), second - second.mean()
    spread = np.sqrt((first @ first) * (second @ second))
    return round(100 * float(first @ second / spread), DIGITS) if spread > 0 else 0.0


def _average_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]


@dataclass(frozen=True)
class Judgements:
    """The relevant passages of a task as flat arrays [R], ordered by query: query row, passage index, gain."""

    query: NDArray[np.int64]
    passage: NDArray[np.int64]
    gain: NDArray[np.float64]
    queries: int

    @classmethod
    def of(cls, task: RetrievalTask) -> Judgements:
        """Flatten the judgements of a task."""
        flat = [(row, passage, gains[passage]) for row, gains in enumerate(task.qrels) for passage in sorted(gains)]
        query, passage, gain = zip(*flat, strict=True)
        return cls(np.array(query), np.array(passage), np.array(gain, np.float64), len(task.qrels))

    def within(self, start: int, stop: int) -> slice:
        """The judgements of query rows start … stop-1."""
        return slice(*np.searchsorted(self.query, (start, stop)).tolist())

    def metrics(self, ranks: NDArray[np.int64]) -> Scores:
        """Metrics in percent, averaged over queries, from the rank [R] (from 1) of every relevant passage."""
        relevant = np.bincount(self.query, minlength=self.queries)

        def per_query(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.bincount(self.query, weights=values, minlength=self.queries).astype(np.float64)

        dcg = per_query(np.where(ranks <= CUT_NDCG, self.gain / np.log2(ranks + 1), 0))
        ideal_rank = self._position(-self.gain)
        ideal = per_query(np.where(ideal_rank <= CUT_NDCG, self.gain / np.log2(ideal_rank + 1), 0))
        found = self._position(ranks)
        precision = per_query(np.where(ranks <= CUT_MAP, found / ranks, 0))
        reciprocal = per_query(np.where((found == 1) & (ranks <= CUT_MRR), 1 / ranks, 0))
        values = {"ndcg_at_10": dcg / ideal}
        values |= {f"recall_at_{cut}": per_query(ranks <= cut) / relevant for cut in CUTS_RECALL}
        values |= {"mrr_at_10": reciprocal, "map_at_100": precision / relevant}
        return {name: round(100 * float(value.mean()), DIGITS) for name, value in values.items()}

    def _position(self, keys: NDArray[Any]) -> NDArray[np.int64]:
        """Position (from 1) of each judgement among those of its query, in ascending order of key."""
        order = np.lexsort((keys, self.query))
        starts = np.searchsorted(self.query, self.query)
        position = np.empty(len(order), np.int64)
        position[order] = np.arange(len(order)) - starts + 1
        return position


def _ranks_by_dim(embedded: Embedded, judgements: Judgements, dims: Sequence[int]) -> dict[int, NDArray[np.int64]]:
    """Ranks [R] of the relevant passages at each of the ascending `dims`.

    The dot products of the first d dimensions are those of the first d' < d plus those of the rest, so that all
    dimensions together cost one product of the full size. A query's own length does not change its ranking.
    """
    import torch

    queries_QD, passages_PD = torch.from_numpy(embedded.left), torch.from_numpy(embedded.right)
    squares_PD = passages_PD.double().square().cumsum(1)
    inverse_P = {dim: squares_PD[:, dim - 1].sqrt().clamp_min(1e-30).reciprocal().float() for dim in dims}
    ranks = {dim: np.empty(len(judgements.query), np.int64) for dim in dims}
    for start in range(0, len(queries_QD), BLOCK):
        block_BD = queries_QD[start : start + BLOCK]
        part = judgements.within(start, start + len(block_BD))
        rows, columns = judgements.query[part] - start, judgements.passage[part]
        dots_BP = torch.zeros(len(block_BD), len(passages_PD))
        before = 0
        for dim in dims:
            dots_BP.addmm_(block_BD[:, before:dim], passages_PD[:, before:dim].T)
            ranks[dim][part] = _ranks(dots_BP * inverse_P[dim], rows, columns)
            before = dim
    return ranks


def _ranks(scores_BP: torch.Tensor, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank (from 1) of each entry (row, column) within its row of scores, ties by column."""
    import torch

    row_R, column_R = torch.from_numpy(rows), torch.from_numpy(columns)
    score_R = scores_BP[row_R, column_R]
    all_RP = scores_BP if len(rows) == len(scores_BP) and (rows == np.arange(len(rows))).all() else scores_BP[row_R]
    above_R = (all_RP > score_R[:, None]).sum(1)
    level_R = (all_RP >= score_R[:, None]).sum(1) - above_R
    for tied in torch.nonzero(level_R > 1).flatten().tolist():
        above_R[tied] += (all_RP[tied, : int(column_R[tied])] == score_R[tied]).sum()
    ranks: NDArray[np.int64] = (above_R + 1).numpy()
    return ranks
