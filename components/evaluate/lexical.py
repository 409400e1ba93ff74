"""Baselines that look at characters and words only: BM25 for retrieval, character TF-IDF for similarity.

They are made as strong as their kind reasonably gets, since a model that does not beat them is not worth its vectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.measure import BLOCK, Scores, ranking_metrics, spearman
from components.core.suite import RetrievalTask, StsTask

# Robertson's usual values (also Lucene's variant in bm25s).
K1, B = 1.5, 0.75
WORD = re.compile(r"\w+")
HAN_OR_OTHER = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]+|[^\u3040-\u30ff\u3400-\u9fff]+")
# Runs of capitals, capitalised or lower-case words, digits.
PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def bm25(task: RetrievalTask, identifiers: bool) -> Scores:
    """Retrieval metrics of BM25, over words, or characters and their bigrams in Chinese and Japanese.

    English words are stemmed, English stop words left out. With `identifiers`, the parts of snake_case and CamelCase
    names are words beside the whole name, which is what search engines for code do.
    """
    import bm25s

    analyse = _analyser(task.lang, identifiers)
    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index([analyse(text) for text in task.passage_texts], show_progress=False)

    def blocks() -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(task.query_texts), BLOCK):
            queries = [analyse(text) for text in task.query_texts[start : start + BLOCK]]
            yield np.stack([_scores(index, query, len(task.passage_texts)) for query in queries])

    return ranking_metrics(blocks(), task)


def _scores(index: Any, query: list[str], passages: int) -> NDArray[np.float32]:
    known = [word for word in query if word in index.vocab_dict]
    return index.get_scores(known).astype(np.float32) if known else np.zeros(passages, np.float32)


def _analyser(lang: str, identifiers: bool) -> Callable[[str], list[str]]:
    if lang != "en":
        return lambda text: words(text, identifiers)
    import Stemmer
    from bm25s.stopwords import STOPWORDS_EN

    stemmer, stop = Stemmer.Stemmer("english"), frozenset(STOPWORDS_EN)
    return lambda text: stemmer.stemWords([word for word in words(text, identifiers) if word not in stop])


def words(text: str, identifiers: bool) -> list[str]:
    """Lower-case words of a text; Chinese and Japanese characters one by one and as overlapping bigrams."""
    found = []
    for name in WORD.findall(text):
        for run in HAN_OR_OTHER.findall(name):
            if "\u3040" <= run[0] <= "\u9fff":
                found += [*run, *(run[index : index + 2] for index in range(len(run) - 1))]
                continue
            found.append(run.lower())
            parts = PARTS.findall(run) if identifiers and run.isascii() else ()
            found += [part.lower() for part in parts] if len(parts) > 1 else []
    return found


def tfidf(task: StsTask) -> Scores:
    """Spearman of the cosine of character 1–2-gram TF-IDF; idf from all texts of the task itself, both sides."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(analyzer="char", ngram_range=(1, 2)).fit([*task.left, *task.right])
    cosines = vectoriser.transform(task.left).multiply(vectoriser.transform(task.right)).sum(axis=1)
    return {"spearman": spearman(np.asarray(cosines).ravel(), task.labels)}
