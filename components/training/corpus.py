"""Records of a dataset as training rows: every text becomes a row number of the token store.

Texts stay where they were read to, in Arrow's buffers; in Python's memory there are their ids, eight bytes a text.
Whatever would break or mislead the training is looked for when the records are read, and named by source and record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.core.errors import InputError, UsageError
from components.core.manifest import Dataset
from components.core.textnorm import text_ids
from components.training.filling import edges_of
from components.training.plan import TaskRows
from components.training.tokens import ABSENT as ABSENT
from components.training.tokens import (
    PASSAGE,
    QUERY,
    SIDES,
    SYMMETRIC,
    Reading,
    SidedTokens,
    Texts,
    TokenStore,
    read_sides,
)
from components.training.tokens import Rows as Rows

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

Ids = npt.NDArray[np.uint64]

_COLUMNS = ("id", "task", "text", "text_pos", "text_neg", "text_pair", "label", "source", "lang", "meta")
_TEXTS = ("text", "text_pos", "text_pair", "text_neg")
# Columns that a record of each task must fill.
_NEEDED = {
    "retri_contrast": ("text", "text_pos"),
    "cosent": ("text", "text_pair"),
    "cls_contrast": ("text", "text_pos"),
}
# The side that each text of a record is read on.
_SIDES = {
    "retri_contrast": {"text": QUERY, "text_pos": PASSAGE, "text_neg": PASSAGE},
    "cosent": {"text": SYMMETRIC, "text_pair": SYMMETRIC},
    "cls_contrast": {"text": SYMMETRIC, "text_pos": SYMMETRIC, "text_neg": SYMMETRIC},
}
_LARGEST = 1e6  # no scale of grades goes beyond; a sentinel for "no grade" often does
_BLANK = r"^[\s\pZ]*$"
_AT_ONCE = 1 << 14  # texts that are Python objects at once
_CHUNK = 4096  # rows that get random numbers for every label at once


@dataclass(frozen=True)
class RetrievalRows:
    """Store rows of queries [N], positives [N] and given hard negatives [N, K], padded with ``ABSENT``.

    Of every record, here as in the other tasks: ``repeat`` [N], how often an epoch draws it (``repeat`` of its source);
    its ``id`` [N]; and ``source`` [N], the number of its source by name. ``score`` [N, 1 + K] holds a teacher's scores
    of the positive and the given negatives (FlagEmbedding's ``pos_scores`` and ``neg_scores``), NaN where there is
    none; it is None if no record has any.
    """

    query: Rows
    positive: Rows
    negatives: Rows
    repeat: Rows
    id: Ids
    source: Rows
    score: npt.NDArray[np.float32] | None

    def task(self, batch_size: int, tokens: SidedTokens | None = None, mined: int = 0) -> TaskRows:
        """The rows as the plan sees them, with their tokens if batches are to be counted by them.

        Queries and positives must be distinct in a batch: a repeated one would be a false negative. ``mined`` negatives
        of a row, which are not known yet or change, count as many tokens as the average positive.
        """
        sides = ((self.query, QUERY), (self.positive, PASSAGE), (self.negatives, PASSAGE))
        task = _task("retri_contrast", self, np.stack([self.query, self.positive], axis=1), batch_size, tokens, sides)
        if tokens is None or task.tokens is None or not mined or not len(task):
            return task
        average = float(tokens.lengths(Texts.of(self.positive, PASSAGE)).mean())
        return replace(task, tokens=task.tokens + round(mined * average))


@dataclass(frozen=True)
class SimilarityRows:
    """Store rows of both sides [N], and labels [N] from 0 to 1; the rest as in ``RetrievalRows``."""

    left: Rows
    right: Rows
    label: npt.NDArray[np.float64]
    repeat: Rows
    id: Ids
    source: Rows

    def task(self, batch_size: int, tokens: SidedTokens | None = None) -> TaskRows:
        """The rows as the plan sees them, with their tokens if batches are to be counted by them."""
        none = np.zeros((len(self.left), 0), dtype=np.int64)
        return _task("cosent", self, none, batch_size, tokens, ((self.left, SYMMETRIC), (self.right, SYMMETRIC)))


@dataclass(frozen=True)
class ClassRows:
    """Store rows of texts [N], their label texts [N] and other label texts [N, K], padded with ``ABSENT``.

    The rest as in ``RetrievalRows``.
    """

    text: Rows
    label: Rows
    others: Rows
    repeat: Rows
    id: Ids
    source: Rows

    def task(self, batch_size: int, tokens: SidedTokens | None = None) -> TaskRows:
        """The rows as the plan sees them, with their tokens if batches are to be counted by them.

        Label texts are not counted: a batch embeds each of its labels once.
        """
        none = np.zeros((len(self.text), 0), dtype=np.int64)
        return _task("cls_contrast", self, none, batch_size, tokens, ((self.text, SYMMETRIC),))


@dataclass(frozen=True)
class Corpus:
    """A dataset's records in memory."""

    table: pa.Table
    digest: str
    uri: str

    @cached_property
    def text_ids(self) -> Ids:
        """Ids of the distinct texts, ascending [N]. A text's row is its place here, and in stores made from these."""
        return self._distinct[0]

    def texts(self, rows: Rows) -> list[str]:
        """The texts at ``rows``."""
        import pyarrow as pa

        found: list[str] = self._columns.take(pa.array(self._distinct[1][rows])).to_pylist()
        return found

    def sample(self, characters: int) -> list[str]:
        """Texts that together hold about this many characters, chosen by their ids; all of them if they hold fewer."""
        import pyarrow.compute as pc

        place = self._distinct[1]
        lengths = pc.utf8_length(self._columns).to_numpy()[place]
        if int(lengths.sum()) <= characters:
            return self.texts(np.argsort(place))
        return self.texts(np.arange(int((np.cumsum(lengths) <= characters).sum())))

    def tasks(self) -> dict[str, int]:
        """Number of records of each task, in order of name."""
        return _counts(self.table["task"])

    def languages(self) -> dict[str, int]:
        """Number of records of each language, in order of name; records without one are left out."""
        return _counts(self.table["lang"])

    def provenance(self) -> dict[str, Any]:
        """What a model trained on these records should say of them."""
        return {"data": self.digest, "records": _counts(self.table["source"]), "languages": self.languages()}

    def texts_of_language(self, lang: str) -> list[str]:
        """The distinct texts of this language's records, in order of first appearance."""
        part = self._of_language(lang)
        return part.texts(np.argsort(part._distinct[1]))

    def tokenised(self, tokenizer: Tokenizer, folder: Path) -> TokenStore:
        """The token store of all texts as they are, without special tokens, kept in ``folder``."""
        every = np.arange(len(self.text_ids))
        reading, used = dict.fromkeys(SIDES, Reading()), dict.fromkeys(SIDES, every)
        (store,) = read_sides(folder, tokenizer, self.text_ids, self.texts, reading, used).stores
        return store

    def sided(
        self,
        tokenizer: Tokenizer,
        folder: Path,
        readings: Mapping[int, Reading],
        distilled: Sequence[str] = (),
        advance: Callable[[int], None] = lambda texts: None,
    ) -> SidedTokens:
        """The tokens of every text on the sides that its records put it on, kept in ``folder``.

        Texts of the languages that are ``distilled`` are read as symmetric ones too. ``advance`` hears of texts done.
        """
        used = {side: np.zeros(len(self.text_ids), dtype=np.bool_) for side in SIDES}
        for task, columns in _SIDES.items():
            here_N = self._is_task(task)
            for name, side in columns.items():
                mine = np.repeat(here_N, np.diff(self._list_edges)) if name == "text_neg" else here_N
                used[side][np.searchsorted(self.text_ids, self._ids[name][mine])] = True
        for lang in distilled:
            used[SYMMETRIC][np.searchsorted(self.text_ids, self._of_language(lang).text_ids)] = True
        rows = {side: np.flatnonzero(mask) for side, mask in used.items()}
        return read_sides(folder, tokenizer, self.text_ids, self.texts, readings, rows, advance)

    def split_dev(self, rows: int, seed: int) -> tuple[Corpus, pa.Table]:
        """The corpus without about ``rows`` records (no more), and the records that were kept out of it.

        Records go by the hash of their text, those of equal texts together: a query is never on both sides. A graded
        pair (b, a) whose (a, b) is kept out is on neither. Raises UsageError if more than half of the records were to
        be kept out.
        """
        import pyarrow as pa

        if rows * 2 > len(self.table):
            raise UsageError(
                f"dev.rows: {rows:,} of {len(self.table):,} records leave less than half to train on; "
                f"allowed: up to {len(self.table) // 2:,}"
            )
        mixed = text_ids(f"{seed} {identifier}" for identifier in self._ids["text"].tolist())
        _, group, sizes = np.unique(mixed, return_inverse=True, return_counts=True)
        kept_out = (np.cumsum(sizes) <= rows)[group]
        training = Corpus(self.table.filter(pa.array(~kept_out & ~self._mirrored(kept_out))), self.digest, self.uri)
        return training, self.table.filter(pa.array(kept_out))

    def _mirrored(self, kept_out: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which records are a graded pair of ``kept_out`` the other way round [N]."""
        graded, left, right = self._is_task("cosent"), self._ids["text"], self._ids["text_pair"]
        kept = graded & kept_out
        pairs = set(zip(left[kept].tolist(), right[kept].tolist(), strict=True))
        found = np.zeros(len(self.table), np.bool_)
        for row in np.flatnonzero(graded & np.isin(right, left[kept])).tolist():
            found[row] = (int(right[row]), int(left[row])) in pairs
        return found

    def retrieval(self, store: TokenStore | SidedTokens, without: Sequence[str] = ()) -> RetrievalRows:
        """The retrieval records, save those of the languages ``without``."""
        import pyarrow as pa
        import pyarrow.compute as pc

        other_N = pc.is_in(self.table["lang"], pa.array(without, pa.string())).to_numpy()
        at = np.flatnonzero(self._is_task("retri_contrast") & ~other_N)
        notes = self._notes(at)
        negatives = self._lists(store, at)
        return RetrievalRows(
            store.rows(self._ids["text"][at]),
            store.rows(self._ids["text_pos"][at]),
            negatives,
            _repeats(notes),
            *_origin(notes),
            self._scores(notes, (negatives != ABSENT).sum(axis=1), negatives.shape[1]),
        )

    def similarity(self, store: TokenStore | SidedTokens) -> SimilarityRows:
        """The graded pairs, labels scaled to 0–1 within each source: sources grade on scales of their own.

        A source with one grade for all of its pairs has no scale and ranks nothing: its pairs are left out.
        """
        at = np.flatnonzero(self._is_task("cosent"))
        notes = self._notes(at)
        label_N = notes["label"].to_numpy().astype(np.float64)
        ids, source_N = _origin(notes)
        ranked_N = np.zeros(len(at), dtype=np.bool_)
        for source in np.unique(source_N):
            mine = source_N == source
            low, high = label_N[mine].min(), label_N[mine].max()
            ranked_N[mine] = high > low
            label_N[mine] = (label_N[mine] - low) / ((high - low) or 1.0)
        left_N, right_N = (store.rows(self._ids[name][at[ranked_N]]) for name in ("text", "text_pair"))
        repeat_N = _repeats(notes)[ranked_N]
        return SimilarityRows(left_N, right_N, label_N[ranked_N], repeat_N, ids[ranked_N], source_N[ranked_N])

    def classes(self, store: TokenStore | SidedTokens, negatives: int, seed: int) -> ClassRows:
        """The class records; one that names no other labels gets ``negatives`` drawn from those of its source."""
        at = np.flatnonzero(self._is_task("cls_contrast"))
        notes = self._notes(at)
        label_N, other_NK = store.rows(self._ids["text_pos"][at]), self._lists(store, at)
        ids, source_N = _origin(notes)
        drawn_NK = np.full((len(at), negatives), ABSENT, dtype=np.int64)
        rng = np.random.default_rng([seed, len(at)])
        for source in np.unique(source_N):
            mine = np.flatnonzero(source_N == source)
            labels = np.unique(label_N[mine])
            drawn_NK[mine, : min(negatives, len(labels) - 1)] = _draw_others(labels, label_N[mine], negatives, rng)
        bare_N1 = (other_NK == ABSENT).all(axis=1, keepdims=True)
        width = max(other_NK.shape[1], negatives)
        other_NK = np.where(bare_N1, _padded(drawn_NK, width), _padded(other_NK, width))
        return ClassRows(store.rows(self._ids["text"][at]), label_N, other_NK, _repeats(notes), ids, source_N)

    def check(self) -> Corpus:
        """The same corpus. Raises InputError that names the first record that cannot be trained on."""
        import pyarrow.compute as pc

        for task in self.tasks():
            if task not in _NEEDED:
                row = pc.index(self.table["task"], task).as_py()
                raise self._fault(self.table, row, f"no task of this name; allowed: {', '.join(_NEEDED)}")
            here = pc.equal(self.table["task"], task)
            for name in _NEEDED[task]:
                column = self.table[name]
                blank = pc.or_kleene(column.is_null(), pc.match_substring_regex(column, _BLANK))
                self._refuse(pc.and_kleene(here, blank), f"{name} is empty, expected a text")
            if task == "cosent":
                label = self.table["label"]
                self._refuse(pc.and_kleene(here, label.is_null()), "no label, expected a grade")
                # not (… <= …), so that what is no number is refused too
                wide = pc.invert(pc.less_equal(pc.abs(label), _LARGEST))
                self._refuse(
                    pc.and_kleene(here, wide), f"label is out of range, expected a number within ±{_LARGEST:g}"
                )
        negatives = _flat(self.table["text_neg"])
        if negatives.null_count:
            owner = np.searchsorted(self._list_edges, pc.index(negatives.is_null(), True).as_py(), side="right") - 1
            raise self._fault(self.table, int(owner), "text_neg holds a null, expected texts")
        return self

    @cached_property
    def _ids(self) -> dict[str, Ids]:
        """Text ids of each column, for every record; of ``text_neg`` for every text in it, list after list."""
        return {name: _ids_of(_flat(self.table[name])) for name in _TEXTS}

    @cached_property
    def _list_edges(self) -> Rows:
        """Where the lists of ``text_neg`` begin among all its texts, and where the last one ends [N + 1]."""
        import pyarrow.compute as pc

        return edges_of(pc.list_value_length(self.table["text_neg"]).fill_null(0).to_numpy())

    @cached_property
    def _columns(self) -> pa.ChunkedArray:
        """All texts, column after column, repeated ones too; nulls where a record has none."""
        import pyarrow as pa

        chunks = [chunk for name in _TEXTS for chunk in _flat(self.table[name]).chunks]
        return pa.chunked_array(chunks, pa.string())

    @cached_property
    def _distinct(self) -> tuple[Ids, Rows]:
        """Ids of the distinct texts, ascending [N], and where in ``_columns`` each first appears [N]."""
        there = np.flatnonzero(self._columns.is_valid().to_numpy())
        ids, first = np.unique(np.concatenate([self._ids[name] for name in _TEXTS])[there], return_index=True)
        return ids, there[first]

    def _of_language(self, lang: str) -> Corpus:
        import pyarrow.compute as pc

        return Corpus(self.table.filter(pc.equal(self.table["lang"], lang)), self.digest, self.uri)

    def _is_task(self, task: str) -> npt.NDArray[np.bool_]:
        import pyarrow.compute as pc

        mask: npt.NDArray[np.bool_] = pc.equal(self.table["task"], task).to_numpy()
        return mask

    def _notes(self, at: Rows) -> pa.Table:
        """What the records ``at`` these places say beside their texts."""
        return self.table.select(["id", "task", "source", "label", "meta"]).take(at)

    def _lists(self, store: TokenStore | SidedTokens, at: Rows) -> Rows:
        """Store rows of ``text_neg`` of the records ``at``, padded with ``ABSENT`` to the longest, [N, K]."""
        first_N, size_N = self._list_edges[at], np.diff(self._list_edges)[at]
        rows_NK = np.full((len(at), int(size_N.max(initial=0))), ABSENT, dtype=np.int64)
        given_NK = np.arange(rows_NK.shape[1]) < size_N[:, None]
        place_NK = first_N[:, None] + np.arange(rows_NK.shape[1])
        rows_NK[given_NK] = store.rows(self._ids["text_neg"][place_NK[given_NK]])
        return rows_NK

    def _scores(self, notes: pa.Table, given_N: Rows, most: int) -> npt.NDArray[np.float32] | None:
        """The teacher's scores that ingest left in the records' meta [N, 1 + most]; None if there are none."""
        score = np.full((len(notes), 1 + most), np.nan, dtype=np.float32)
        for row, value in _noted(notes, "pos_score"):
            score[row, 0] = self._number(notes, row, "pos_score", value)
        for row, values in _noted(notes, "neg_scores"):
            if not isinstance(values, list) or len(values) != given_N[row]:
                raise self._fault(notes, row, f"neg_scores is {values}, expected {given_N[row]}: one for each text_neg")
            score[row, 1 : 1 + len(values)] = [self._number(notes, row, "neg_scores", each) for each in values]
        return None if np.isnan(score).all() else score

    def _number(self, notes: pa.Table, row: int, name: str, value: Any) -> float:
        if not isinstance(value, (int, float)) or not np.isfinite(value):
            raise self._fault(notes, row, f"{name} has {value!r}, expected finite numbers")
        return float(value)

    def _fault(self, notes: pa.Table, row: int, what: str) -> InputError:
        record, source, task = (notes[name][row].as_py() for name in ("id", "source", "task"))
        return InputError(f"{self.uri}: source {source}, {task} record {record}: {what}")

    def _refuse(self, bad: pa.ChunkedArray, what: str) -> None:
        import pyarrow.compute as pc

        row = pc.index(bad, True).as_py()
        if row >= 0:
            more = pc.sum(bad).as_py() - 1
            raise self._fault(self.table, row, what + (f" ({more:,} more records like this)" if more else ""))


def read_corpus(uri: str) -> Corpus:
    """The records of the dataset at ``uri``. Raises InputError if it has none, or one that cannot be trained on."""
    dataset = Dataset.open(uri)
    table = dataset.read(_COLUMNS)
    if not len(table):
        raise InputError(f"{uri}: no records to train on; see the rejected rows beside it and the filter's funnel")
    return Corpus(table, dataset.digest, uri).check()


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    pairs = ((entry["values"], entry["counts"]) for entry in column.drop_null().value_counts().to_pylist())
    return dict(sorted(pairs))


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of texts as it is; one of lists of texts as the texts of all lists."""
    import pyarrow as pa

    if not pa.types.is_list(column.type):
        return column
    return pa.chunked_array([chunk.flatten() for chunk in column.chunks], pa.string())


def _ids_of(texts: pa.ChunkedArray) -> Ids:
    """The id of each text, that of an empty text for a null; few of them are ever Python objects at once."""
    ids = np.zeros(len(texts), dtype=np.uint64)
    if texts.null_count == len(texts):
        return ids
    for start in range(0, len(texts), _AT_ONCE):
        part = texts.slice(start, _AT_ONCE).fill_null("").to_pylist()
        ids[start : start + len(part)] = text_ids(part)
    return ids


def _noted(notes: pa.Table, name: str) -> Iterator[tuple[int, Any]]:
    """The records whose meta has this key: their places, and what it says."""
    import pyarrow.compute as pc

    meta = notes["meta"]
    for row in np.flatnonzero(pc.match_substring(meta, f'"{name}":').fill_null(False).to_numpy()).tolist():
        value = json.loads(meta[row].as_py()).get(name)
        if value is not None:
            yield row, value


def _repeats(notes: pa.Table) -> Rows:
    """How often an epoch draws each record [N]: the ``repeat`` that ingest left in its meta, else once."""
    repeat_N = np.ones(len(notes), dtype=np.int64)
    for row, repeat in _noted(notes, "repeat"):
        repeat_N[row] = repeat
    return repeat_N


def _origin(notes: pa.Table) -> tuple[Ids, Rows]:
    """The id of each record [N], and the number of its source in order of name [N]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    source = notes["source"].fill_null("")
    names = pa.array(sorted(source.unique().to_pylist()), pa.string())
    return notes["id"].to_numpy(), pc.index_in(source, names).to_numpy().astype(np.int64)


def _task(
    name: str,
    rows: RetrievalRows | SimilarityRows | ClassRows,
    texts: Rows,
    batch_size: int,
    tokens: SidedTokens | None,
    sides: Sequence[tuple[Rows, int]],
) -> TaskRows:
    """The plan's view of a task's rows: ``texts`` must be distinct in a batch, the ``sides`` are embedded."""
    counts = None
    if tokens is not None:
        counts = np.zeros(len(texts), dtype=np.int64)
        for column, side in sides:
            column_NK = column.reshape(len(texts), -1)
            given_NK = column_NK != ABSENT
            length_NK = np.zeros(column_NK.shape, dtype=np.int64)
            length_NK[given_NK] = tokens.lengths(Texts.of(column_NK[given_NK], side))
            counts += length_NK.sum(axis=1)
    return TaskRows(name, texts, batch_size, rows.repeat, rows.source, counts, rows.id)


def _draw_others(labels: Rows, own_N: Rows, count: int, rng: np.random.Generator) -> Rows:
    """For each row, up to ``count`` distinct labels other than its own, [N, min(count, len(labels) − 1)]."""
    drawn = np.empty((len(own_N), min(count, len(labels) - 1)), dtype=np.int64)
    for start in range(0, len(own_N), _CHUNK):
        own_place_n1 = np.searchsorted(labels, own_N[start : start + _CHUNK])[:, None]
        order_nL = rng.random((len(own_place_n1), len(labels)))
        np.put_along_axis(order_nL, own_place_n1, 2.0, axis=1)
        drawn[start : start + _CHUNK] = labels[np.argsort(order_nL, axis=1)[:, : drawn.shape[1]]]
    return drawn


def _padded(rows_NK: Rows, width: int) -> Rows:
    extra: Any = ((0, 0), (0, width - rows_NK.shape[1]))
    return np.pad(rows_NK, extra, constant_values=ABSENT)
