"""BEIR folders: the texts that the judgements of one split speak of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from components.core.beir import find_beir
from components.core.carriers import Fault, Span, carrier_of, read_rows
from components.core.errors import InputError

# Characters of judged texts that a worker may hold. MS MARCO's 533,000 training judgements speak of 0.2 billion;
# passages that nobody judged are read past.
HELD_CHARACTERS = 1_000_000_000


class Judged(NamedTuple):
    """Texts by identifier: the queries and the passages that a split judges relevant."""

    queries: dict[str, str]
    passages: dict[str, str]


def judged_texts(uri: str, split: str) -> Judged:
    """The texts of a folder's split. Raises InputError if they are more than a worker may hold."""
    folder = find_beir(uri)
    judgements = _rows(folder.qrels[split], "query-id", "corpus-id", "score")
    relevant = [(row.get("query-id"), row.get("corpus-id")) for row in judgements if (grade(row.get("score")) or 0) > 0]
    queries = _texts(folder.queries, {str(query) for query, _ in relevant})
    return Judged(queries, _texts(folder.corpus, {str(passage) for _, passage in relevant}))


def grade(value: Any) -> float | None:
    """A judgement as a number; None if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _texts(uri: str, wanted: set[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    held = 0
    for row in _rows(uri, "_id", "title", "text"):
        identifier, text, title = str(row.get("_id")), row.get("text"), row.get("title") or ""
        if identifier not in wanted or not isinstance(text, str) or not isinstance(title, str):
            continue
        # some collections repeat the title at the head of the text; others keep it apart
        texts[identifier] = text if text.startswith(title) else f"{title} {text}"
        held += len(texts[identifier])
        if held > HELD_CHARACTERS:
            raise InputError(
                f"{uri}: the judged texts have more than {HELD_CHARACTERS:,} characters, which a worker may hold; "
                "make pairs of queries and passages first"
            )
    return texts


def _rows(uri: str, *columns: str) -> Iterator[dict[str, Any]]:
    """The sound rows of a file; a judgement whose text is in a broken one is said to lack it."""
    carrier = carrier_of(uri)
    assert carrier is not None, uri
    for _, row in read_rows(uri, carrier, Span(), columns):
        if not isinstance(row, Fault):
            yield row
