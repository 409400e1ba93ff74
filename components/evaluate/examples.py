"""Hits and misses: what the model finds for a few queries, chosen by content so that every run shows the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.core.measure import Embedded, relevant_ranks
from components.core.suite import RetrievalTask, Task
from components.core.textnorm import text_id

HITS = 3
CHARACTERS = 300


def find_examples(tasks: Sequence[Task], embedded: Sequence[Embedded], count: int) -> list[dict[str, Any]]:
    """`count` queries of the first retrieval task with their best passages; half of them hits, where there are enough.

    A hit has a relevant passage on rank 1. Queries come in the order of a hash of their text.
    """
    pairs = zip(tasks, embedded, strict=True)
    chosen = next(((task, vectors) for task, vectors in pairs if isinstance(task, RetrievalTask)), None)
    if chosen is None or not count:
        return []
    task, vectors = chosen
    ranks = relevant_ranks(vectors, task)
    order = sorted(range(len(task.query_texts)), key=lambda row: text_id(task.query_texts[row]))
    best = [min(ranks[row].values()) for row in range(len(task.query_texts))]
    hits = [row for row in order if best[row] == 1]
    misses = [row for row in order if best[row] > 1]
    wanted_hits = max((count + 1) // 2, count - len(misses))
    rows = sorted([*hits[:wanted_hits], *misses[: count - min(wanted_hits, len(hits))]], key=order.index)
    return _describe(task, vectors, rows, ranks)


def _describe(
    task: RetrievalTask, vectors: Embedded, rows: Sequence[int], ranks: Sequence[dict[int, int]]
) -> list[dict[str, Any]]:
    import faiss

    index = faiss.IndexFlatIP(vectors.right.shape[1])
    index.add(np.ascontiguousarray(vectors.right))
    scores, found = index.search(np.ascontiguousarray(vectors.left[list(rows)]), min(HITS, len(task.passage_texts)))
    examples = []
    for row, row_scores, row_found in zip(rows, scores.tolist(), found.tolist(), strict=True):
        right, rank = min(ranks[row].items(), key=lambda item: (item[1], item[0]))
        hits = [
            {"text": _short(task.passage_texts[passage]), "score": round(score, 4), "right": passage in task.qrels[row]}
            for score, passage in zip(row_scores, row_found, strict=True)
        ]
        query, passage = _short(task.query_texts[row]), _short(task.passage_texts[right])
        examples.append({"task": task.name, "query": query, "passage": passage, "rank": rank, "hits": hits})
    return examples


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1].rstrip() + "…"
