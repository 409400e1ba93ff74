"""Records of a dataset as training rows: every text becomes a row number of the token store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.core.errors import InputError
from components.core.fingerprint import digest_bytes, digest_json
from components.core.manifest import Dataset
from components.core.textnorm import text_ids
from components.training.tokens import ABSENT as ABSENT
from components.training.tokens import Rows as Rows
from components.training.tokens import TokenStore, build_store

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

_COLUMNS = ("task", "text", "text_pos", "text_neg", "text_pair", "label", "source", "lang", "meta")


@dataclass(frozen=True)
class Corpus:
    """A dataset's records in memory, and its distinct texts in order of first appearance."""

    table: pa.Table
    texts: list[str]
    digest: str

    def sample(self, characters: int) -> list[str]:
        """Texts that together hold about this many characters, chosen by their ids; all of them if they hold fewer."""
        if sum(map(len, self.texts)) <= characters:
            return self.texts
        order = np.argsort(text_ids(self.texts))
        taken = np.cumsum([len(self.texts[row]) for row in order]) <= characters
        return [self.texts[row] for row in order[taken]]

    def languages(self) -> dict[str, int]:
        """Number of records of each language, in order of name; records without one are left out."""
        return _counts(self.table["lang"])

    def provenance(self) -> dict[str, Any]:
        """What a model trained on these records should say of them."""
        return {"data": self.digest, "records": _counts(self.table["source"]), "languages": self.languages()}

    def texts_of_language(self, lang: str) -> list[str]:
        """The distinct texts of this language's records, in order of first appearance."""
        import pyarrow.compute as pc

        return list(dict.fromkeys(_all_texts(self.table.filter(pc.equal(self.table["lang"], lang)))))

    def tokenised(self, tokenizer: Tokenizer, folder: Path) -> TokenStore:
        """The token store of all texts, kept in ``folder``."""
        made_from = digest_json([self.digest, digest_bytes(tokenizer.to_str().encode())])
        return build_store(folder, tokenizer, self.texts, made_from)

    def retrieval(self, store: TokenStore, without: Sequence[str] = ()) -> RetrievalRows:
        """The retrieval records, save those of the languages ``without``."""
        import pyarrow as pa
        import pyarrow.compute as pc

        part = self._task("retri_contrast")
        part = part.filter(pc.invert(pc.is_in(part["lang"], pa.array(without, pa.string()))))
        query, positive = _rows(store, part["text"]), _rows(store, part["text_pos"])
        return RetrievalRows(query, positive, _lists(store, part["text_neg"]), _repeats(part))

    def similarity(self, store: TokenStore) -> SimilarityRows:
        """The graded pairs, labels scaled to 0–1 within each source: sources grade on scales of their own."""
        part = self._task("cosent")
        label_N = part["label"].to_numpy().astype(np.float64)
        source_N = np.array(part["source"].to_pylist(), dtype=object)
        for source in sorted(set(source_N.tolist())):
            mine = source_N == source
            low, high = label_N[mine].min(), label_N[mine].max()
            label_N[mine] = (label_N[mine] - low) / ((high - low) or 1.0)
        return SimilarityRows(_rows(store, part["text"]), _rows(store, part["text_pair"]), label_N, _repeats(part))

    def classes(self, store: TokenStore, negatives: int, seed: int) -> ClassRows:
        """The class records; one that names no other labels gets ``negatives`` drawn from those of its source."""
        part = self._task("cls_contrast")
        label_N, other_NK = _rows(store, part["text_pos"]), _lists(store, part["text_neg"])
        source_N = np.array(part["source"].to_pylist(), dtype=object)
        drawn_NK = np.full((len(part), negatives), ABSENT, dtype=np.int64)
        rng = np.random.default_rng([seed, len(part)])
        for source in sorted(set(source_N.tolist())):
            mine = np.flatnonzero(source_N == source)
            labels = np.unique(label_N[mine])
            drawn_NK[mine, : min(negatives, len(labels) - 1)] = _draw_others(labels, label_N[mine], negatives, rng)
        bare_N1 = (other_NK == ABSENT).all(axis=1, keepdims=True)
        width = max(other_NK.shape[1], negatives)
        other_NK = np.where(bare_N1, _padded(drawn_NK, width), _padded(other_NK, width))
        return ClassRows(_rows(store, part["text"]), label_N, other_NK, _repeats(part))

    def _task(self, task: str) -> pa.Table:
        import pyarrow.compute as pc

        return self.table.filter(pc.equal(self.table["task"], task))


@dataclass(frozen=True)
class RetrievalRows:
    """Store rows of queries [N], positives [N] and given hard negatives [N, K], padded with ``ABSENT``.

    ``repeat`` [N], here as in the other tasks: how often an epoch draws each row (``repeat`` of its source).
    """

    query: Rows
    positive: Rows
    negatives: Rows
    repeat: Rows


@dataclass(frozen=True)
class SimilarityRows:
    """Store rows of both sides [N], and labels [N] from 0 to 1."""

    left: Rows
    right: Rows
    label: npt.NDArray[np.float64]
    repeat: Rows


@dataclass(frozen=True)
class ClassRows:
    """Store rows of texts [N], their label texts [N] and other label texts [N, K], padded with ``ABSENT``."""

    text: Rows
    label: Rows
    others: Rows
    repeat: Rows


def read_corpus(uri: str) -> Corpus:
    """The records of the dataset at ``uri``. Raises InputError if it has none."""
    dataset = Dataset.open(uri)
    table = dataset.read(_COLUMNS)
    if not len(table):
        raise InputError(f"{uri}: no records to train on; see the rejected rows beside it and the filter's funnel")
    return Corpus(table, list(dict.fromkeys(_all_texts(table))), dataset.digest)


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    pairs = ((entry["values"], entry["counts"]) for entry in column.drop_null().value_counts().to_pylist())
    return dict(sorted(pairs))


def _all_texts(table: pa.Table) -> Iterator[str]:
    for name in ("text", "text_pos", "text_pair"):
        yield from table[name].drop_null().unique().to_pylist()
    for texts in table["text_neg"].drop_null().to_pylist():
        yield from texts


def _repeats(part: pa.Table) -> Rows:
    """How often an epoch draws each record [N]: the ``repeat`` that ingest left in its meta, else once."""
    repeat_N = np.ones(len(part), dtype=np.int64)
    for row, meta in enumerate(part["meta"].to_pylist()):
        if meta is not None and '"repeat":' in meta:
            repeat_N[row] = json.loads(meta).get("repeat", 1)
    return repeat_N


def _rows(store: TokenStore, texts: pa.ChunkedArray) -> Rows:
    return store.rows_of(texts.to_pylist())


def _lists(store: TokenStore, lists: pa.ChunkedArray) -> Rows:
    """Store rows of lists of texts, padded with ``ABSENT`` to the longest, [N, K]."""
    given: Sequence[Sequence[str] | None] = lists.to_pylist()
    rows_NK = np.full((len(given), max((len(texts or ()) for texts in given), default=0)), ABSENT, dtype=np.int64)
    for row, texts in enumerate(given):
        if texts:
            rows_NK[row, : len(texts)] = store.rows_of(texts)
    return rows_NK


def _draw_others(labels: Rows, own_N: Rows, count: int, rng: np.random.Generator) -> Rows:
    """For each row, up to ``count`` distinct labels other than its own, [N, min(count, len(labels) − 1)]."""
    own_place_N1 = np.searchsorted(labels, own_N)[:, None]
    order_NL = rng.random((len(own_N), len(labels)))
    np.put_along_axis(order_NL, own_place_N1, 2.0, axis=1)
    return labels[np.argsort(order_NL, axis=1)[:, : min(count, len(labels) - 1)]]


def _padded(rows_NK: Rows, width: int) -> Rows:
    extra: Any = ((0, 0), (0, width - rows_NK.shape[1]))
    return np.pad(rows_NK, extra, constant_values=ABSENT)
