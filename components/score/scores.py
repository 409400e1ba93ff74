"""Cosines of pairs by the teacher of their language; a text is embedded once, however often it occurs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core.progress import Progress
from components.core.prompts import Prompts, wrap
from components.core.records import pair_texts
from components.core.teacher import ScoreParams
from components.training.encoder import Encoder, open_encoder
from components.training.vectors import TEACHER_CACHE, cosines, encode_cached

Scores = NDArray[np.float32]
Texts = NDArray[np.object_]
# The task whose pairs are a query and a passage; both texts of the others are alike.
RETRIEVAL = "retri_contrast"


class Teachers:
    """The teachers of the languages that occur, each opened when it is first needed."""

    def __init__(self, params: ScoreParams) -> None:
        self._params = params
        self._open: dict[str, Encoder] = {}

    def __getitem__(self, lang: str) -> Encoder:
        """The teacher of a language. Raises UsageError or InputError if it cannot be opened."""
        spec = self._params.teachers[lang]
        if spec not in self._open:
            self._open[spec] = open_encoder(spec, self._params.precision)
        return self._open[spec]

    def among(self, tables: Sequence[pa.Table]) -> list[str]:
        """The languages of these rows that have a teacher."""
        found = {lang for table in tables for lang in table["lang"].unique().to_pylist()}
        return sorted(found & self._params.teachers.keys())

    def spec(self, lang: str) -> str:
        """The teacher of a language, as the parameters name it."""
        return self._params.teachers[lang]


def score_tables(tables: Sequence[pa.Table], teachers: Teachers, workers: int, bar: Progress) -> list[Scores]:
    """Cosines of the rows of each table; every different text is embedded once for all of them.

    A teacher that names prompts sees them: queries and passages their own, the other tasks' texts the symmetric one.
    """
    scores = [np.full(len(table), np.nan, np.float32) for table in tables]
    langs = [np.array(table["lang"].to_pylist(), object) for table in tables]
    asked = [np.array(table["task"].to_pylist(), object) == RETRIEVAL for table in tables]
    sides = [[side.to_numpy(zero_copy_only=False) for side in pair_texts(table)] for table in tables]
    bar.advance(sum(int((~np.isin(each.astype(str), teachers.among(tables))).sum()) for each in langs))
    for lang in teachers.among(tables):
        rows = [np.flatnonzero(each == lang) for each in langs]
        prompts = teachers[lang].prompts
        pairs = [
            prompted(prompts, left[index], right[index], is_query[index])
            for (left, right), index, is_query in zip(sides, rows, asked, strict=True)
        ]
        places: dict[str, int] = {}
        for pair in pairs:
            for side in pair:
                for text in side:
                    places.setdefault(text, len(places))
        share = sum(map(len, rows)) / max(1, len(places))
        vectors = encode_cached(teachers[lang], list(places), TEACHER_CACHE, workers, _in_rows(bar, share))
        for part, index, pair in zip(scores, rows, pairs, strict=True):
            left, right = (np.fromiter((places[text] for text in side), np.int64, len(side)) for side in pair)
            part[index] = cosines(vectors, left, right)
    return scores


def prompted(prompts: Prompts, left_N: Texts, right_N: Texts, retrieval_N: NDArray[np.bool_]) -> tuple[Texts, Texts]:
    """Both texts of pairs as a teacher was trained to see them."""
    if not prompts.any():
        return left_N, right_N
    sides = []
    for text_N, prompt in ((left_N, prompts.query), (right_N, prompts.passage)):
        wrapped_N = np.array(wrap(prompts.symmetric, text_N.tolist()), object)
        wrapped_N[retrieval_N] = wrap(prompt, text_N[retrieval_N].tolist())
        sides.append(wrapped_N)
    return sides[0], sides[1]


def _in_rows(bar: Progress, share: float) -> Callable[[int], None]:
    """Advance a bar that counts rows by finished texts, `share` rows each."""
    return lambda texts: bar.advance(texts * share)
