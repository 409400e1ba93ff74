"""One search: a query in, ranked passages out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.core import environment
from components.core.errors import UsageError

CHAMPION = "champion"
CORPUS = ("data/score", "data/heldout")


@dataclass(frozen=True)
class Hit:
    """A passage found: its cosine with the query, its title (an object's name, or its first line), where it is from."""

    score: float
    title: str
    text: str
    source: str
    url: str | None


def search(query: str, k: int = 5, model: str = CHAMPION, corpus: Sequence[str] = CORPUS) -> list[Hit]:
    """The k passages of the corpus that the model finds nearest to the query, best first.

    `model` is `champion`, a sentence-transformers folder, or the name of an encoder. Raises UsageError for a query
    that is empty or has no word that the model knows, InputError if there is no champion or no corpus yet.
    """
    if not query.strip():
        raise UsageError("search: the query is empty")
    environment.quiet()
    from components.core.prompts import wrap
    from components.search.champion import find_champion
    from components.search.index import encode_short, open_index
    from components.training.encoder import open_encoder

    encoder = open_encoder(str(find_champion().folder) if model == CHAMPION else model)
    vector = encode_short(encoder, wrap(encoder.prompts.query, [query]))[0]
    if not vector.any():
        raise UsageError(f"search: the model knows no part of {query!r}")
    index = open_index(encoder, corpus)
    rows, scores = index.nearest(vector, k)
    found = index.passages.take(rows).to_pylist()
    return [Hit(score, **passage) for score, passage in zip(scores, found, strict=True)]
