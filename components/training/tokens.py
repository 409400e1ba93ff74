"""Pre-tokenised texts: memory-mapped int32 tokens with offsets, addressed by 64-bit text ids.

Tokenising costs more than training a static model, so each distinct text is tokenised once and the result is
kept on disk; epochs, mining and the fine-tuning step read it from there.

A text is known by its row among all raw texts, whoever reads it. What the model sees of it depends on the side it
stands on: queries and passages have prompts and greatest lengths of their own, and only the texts that are used on a
side are tokenised for it. Sides that read alike share one store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from components.core.errors import UsageError
from components.core.fingerprint import digest_bytes, digest_file, digest_json
from components.core.prompts import wrap
from components.core.textnorm import text_ids
from components.training.words import Words, encode_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

QUERY, PASSAGE, SYMMETRIC = 0, 1, 2
SIDES = (QUERY, PASSAGE, SYMMETRIC)
_NAMES = {QUERY: "query", PASSAGE: "passage", SYMMETRIC: "symmetric"}

ABSENT = -1  # in place of a row: no such text

Rows = npt.NDArray[np.int64]
_Chunk = tuple[npt.NDArray[np.int32], Rows]

_CHUNK = 8192  # texts handed to the tokenizer at once: enough to keep its threads busy, little to hold in memory
_FILES = ("tokens.npy", "offsets.npy", "text_ids.npy")


@dataclass(frozen=True)
class Texts:
    """Texts of a batch: ``rows`` int64 [T] of the raw texts, and the ``side`` int8 [T] that each is read on."""

    rows: Rows
    side: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | npt.NDArray[Any]) -> Texts:
        return Texts(self.rows[index], self.side[index])

    @classmethod
    def of(cls, rows: Rows, side: int) -> Texts:
        """``rows`` [T], all on one side."""
        return cls(rows, np.full(len(rows), side, dtype=np.int8))

    @classmethod
    def concatenate(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of several parts, one part after the other."""
        rows = [np.zeros(0, dtype=np.int64), *(part.rows for part in parts)]
        side = [np.zeros(0, dtype=np.int8), *(part.side for part in parts)]
        return cls(np.concatenate(rows), np.concatenate(side))


@dataclass(frozen=True)
class Bags:
    """Token ids of B texts laid end to end; text b owns ``tokens[offsets[b]:offsets[b + 1]]``.

    ``tokens``: int32 [T]; ``offsets``: int64 [B + 1].
    """

    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, texts: slice) -> Bags:
        """The bags of consecutive texts, without a copy of their tokens."""
        first, last, _ = texts.indices(len(self))
        offsets = self.offsets[first : last + 1]
        return Bags(self.tokens[offsets[0] : offsets[-1]], offsets - offsets[0])

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each text, int64 [B]."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Reading:
    """How a side reads a text: with a prompt, cut to a length, with the special tokens of a transformer or without.

    ``prompt`` goes before the text, or is a template that names its place: ``"Find: {text}"``. ``max_tokens`` counts
    all tokens, the prompt's and the special ones too; a longer text loses its end, as Hugging Face's tokenizers cut
    it: the special tokens stay. None leaves the tokenizer's own limit.
    """

    prompt: str = ""
    max_tokens: int | None = None
    special: bool = False

    def wrap(self, texts: Sequence[str]) -> list[str]:
        """``texts`` with the prompt."""
        return wrap(self.prompt, texts)

    def tokenizer(self, tokenizer: Tokenizer) -> Tokenizer:
        """A tokenizer that cuts as this side does. Raises UsageError if the prompt leaves no room for a text."""
        from tokenizers import Tokenizer

        own: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
        own.no_padding()
        if self.max_tokens is not None:
            given = own.truncation or {"direction": "right"}
            own.no_truncation()
            taken = len(own.encode(self.wrap([""])[0], add_special_tokens=self.special).ids)
            if taken >= self.max_tokens:
                raise UsageError(
                    f"max_tokens: {self.max_tokens} leaves no room for a text: prompt {self.prompt!r} and special "
                    f"tokens take {taken}; allowed: {taken + 1} or more"
                )
            own.enable_truncation(self.max_tokens, direction=given["direction"])
        return own


def tokenise(tokenizer: Tokenizer, texts: Sequence[str], special: bool = False) -> Bags:
    """Tokens of ``texts``: without special tokens as sentence-transformers' StaticEmbedding sees them, or with."""
    few = len(texts) <= _CHUNK  # not worth remembering words for
    encode = partial(encode_texts, tokenizer, special=special) if special or few else Words(tokenizer).tokenise
    parts = [encode(texts[start : start + _CHUNK]) for start in range(0, len(texts), _CHUNK)]
    lengths = [lengths for _, lengths in parts] or [np.zeros(0, dtype=np.int64)]
    tokens = [tokens for tokens, _ in parts] or [np.zeros(0, dtype=np.int32)]
    return Bags(np.concatenate(tokens), _offsets_of(np.concatenate(lengths)))


class TokenStore:
    """Tokens of every distinct text of a dataset, sorted by text id."""

    def __init__(
        self,
        tokens: npt.NDArray[np.int32],
        offsets: npt.NDArray[np.int64],
        text_ids: npt.NDArray[np.uint64],
    ) -> None:
        self.tokens = tokens
        self.offsets = offsets
        self.text_ids = text_ids

    def __len__(self) -> int:
        return len(self.text_ids)

    def rows(self, text_ids: npt.NDArray[np.uint64]) -> Rows:
        """Row of each text id, int64, same shape. Ids must be in the store."""
        return np.searchsorted(self.text_ids, text_ids).astype(np.int64)

    def rows_of(self, texts: Sequence[str]) -> Rows:
        """Row of each text, int64 [N]. Texts must be in the store."""
        return self.rows(text_ids(texts))

    def lengths(self, rows: Rows) -> Rows:
        """Number of tokens of the texts at ``rows``, int64, same shape."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def bags(self, rows: Rows) -> Bags:
        """Tokens of the texts at ``rows`` [B], in that order."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = _offsets_of(lengths)
        within = np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], lengths)
        return Bags(np.asarray(self.tokens[within]), offsets)


class SidedTokens:
    """Tokens of raw texts as each side reads them: ``text_ids`` uint64 [N], ascending, are those of the raw texts.

    ``stores`` holds the store that each side reads from, and for each raw text its row there, ``ABSENT`` if the text
    is not used on that side; None where the store's rows are those of the raw texts.
    """

    def __init__(
        self, text_ids: npt.NDArray[np.uint64], stores: Mapping[int, tuple[TokenStore, npt.NDArray[np.int32] | None]]
    ) -> None:
        self.text_ids = text_ids
        self._stores = stores

    @classmethod
    def same(cls, store: TokenStore) -> SidedTokens:
        """One store that all sides read alike."""
        return cls(store.text_ids, dict.fromkeys(SIDES, (store, None)))

    def __len__(self) -> int:
        return len(self.text_ids)

    @property
    def stores(self) -> list[TokenStore]:
        """The distinct stores, in order of their first side."""
        return list({id(store): store for store, _ in self._stores.values()}.values())

    def rows(self, text_ids: npt.NDArray[np.uint64]) -> Rows:
        """Row of each raw text id, int64, same shape. Ids must be among ``text_ids``."""
        return np.searchsorted(self.text_ids, text_ids).astype(np.int64)

    def rows_of(self, texts: Sequence[str]) -> Rows:
        """Row of each raw text, int64 [N]. Texts must be among those that were read."""
        return self.rows(text_ids(texts))

    def lengths(self, texts: Texts) -> Rows:
        """Number of tokens of each text as its side reads it, int64 [T]."""
        lengths_T = np.zeros(len(texts), dtype=np.int64)
        for here_T, store, rows in self._by_store(texts):
            lengths_T[here_T] = store.lengths(rows)
        return lengths_T

    def bags(self, texts: Texts) -> Bags:
        """Tokens of each text as its side reads it, in the order of ``texts``."""
        parts = list(self._by_store(texts))
        if len(parts) == 1:
            (_, store, rows), *_ = parts
            return store.bags(rows)
        offsets = _offsets_of(self.lengths(texts))
        tokens = np.empty(offsets[-1], dtype=np.int32)
        for here_T, store, rows in parts:
            bags = store.bags(rows)
            within = np.arange(len(bags.tokens), dtype=np.int64)
            tokens[within + np.repeat(offsets[:-1][here_T] - bags.offsets[:-1], bags.lengths)] = bags.tokens
        return Bags(tokens, offsets)

    def _by_store(self, texts: Texts) -> Iterator[tuple[npt.NDArray[np.bool_], TokenStore, Rows]]:
        """Which texts read from each store that they use, [T], and their rows in it."""
        found = 0
        for store in self.stores:
            rows_T = np.full(len(texts), ABSENT, dtype=np.int64)
            here_T = np.zeros(len(texts), dtype=np.bool_)
            for side, (its_store, place_N) in self._stores.items():
                if its_store is store:
                    on_side_T = texts.side == side
                    here_T |= on_side_T
                    rows = texts.rows[on_side_T]
                    rows_T[on_side_T] = rows if place_N is None else place_N[rows]
            rows = rows_T[here_T]
            found += int((rows >= 0).sum())
            if len(rows) and rows.min() >= 0:
                yield here_T, store, rows
        if found < len(texts):
            raise LookupError(f"{len(texts) - found} texts were not tokenised for the side they are on")


def read_sides(
    folder: Path,
    tokenizer: Tokenizer,
    text_ids: npt.NDArray[np.uint64],
    texts_at: Callable[[Rows], Sequence[str]],
    readings: Mapping[int, Reading],
    used: Mapping[int, Rows],
    advance: Callable[[int], None] = lambda texts: None,
) -> SidedTokens:
    """The tokens of the raw texts as each side of ``readings`` reads them; stores that are whole are not made again.

    ``text_ids`` uint64 [N] ascend; ``texts_at`` gives the texts at some rows; ``used`` the rows each side needs.
    ``advance`` is told how many texts have been tokenised, or were found so. Each store has a folder in ``folder``.
    """
    stores: dict[int, tuple[TokenStore, npt.NDArray[np.int32] | None]] = {}
    for reading in dict.fromkeys(readings.values()):
        sides = sorted(side for side in readings if readings[side] == reading)
        needed = np.zeros(len(text_ids), dtype=np.bool_)
        for side in sides:
            needed[used[side]] = True
        rows = np.flatnonzero(needed)
        store = _made_store(
            folder / "-".join(_NAMES[side] for side in sides), tokenizer, reading, text_ids, texts_at, rows, advance
        )
        place_N: npt.NDArray[np.int32] | None = None
        if len(rows) < len(text_ids):
            place_N = np.full(len(text_ids), ABSENT, dtype=np.int32)
            place_N[rows] = np.arange(len(rows), dtype=np.int32)
        stores |= dict.fromkeys(sides, (store, place_N))
    return SidedTokens(text_ids, dict(sorted(stores.items())))


def build_store(folder: Path, tokenizer: Tokenizer, texts: Iterable[str], fingerprint: str) -> TokenStore:
    """The store of ``texts`` in ``folder``: read back if an earlier run finished it, else made and kept there.

    ``fingerprint`` must cover the texts and the tokenizer; a folder made from anything else is replaced.
    """
    store = _read(folder, fingerprint)
    if store is not None:
        return store
    unique = list(dict.fromkeys(texts))
    ids = text_ids(unique)
    order = np.argsort(ids)
    words = Words(tokenizer)
    chunks = (words.tokenise([unique[row] for row in part]) for part in _chunks(order))
    return _write(folder, fingerprint, ids[order], chunks)


def _made_store(
    folder: Path,
    tokenizer: Tokenizer,
    reading: Reading,
    text_ids: npt.NDArray[np.uint64],
    texts_at: Callable[[Rows], Sequence[str]],
    rows: Rows,
    advance: Callable[[int], None],
) -> TokenStore:
    """The store of the texts at ``rows`` as this reading has them."""
    own = reading.tokenizer(tokenizer)
    ids = text_ids[rows]
    made_from = [digest_bytes(np.ascontiguousarray(ids).tobytes()), digest_bytes(own.to_str().encode())]
    fingerprint = digest_json([*made_from, reading.prompt, reading.special])
    store = _read(folder, fingerprint)
    if store is not None:
        advance(len(rows))
        return store

    encode = partial(encode_texts, own, special=True) if reading.special else Words(own).tokenise

    def encoded() -> Iterator[_Chunk]:
        for part in _chunks(rows):
            yield encode(reading.wrap(texts_at(part)))
            advance(len(part))

    return _write(folder, fingerprint, ids, encoded())


def _chunks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]


def _offsets_of(lengths: Rows) -> Rows:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _read(folder: Path, fingerprint: str) -> TokenStore | None:
    try:
        marker: dict[str, Any] = json.loads((folder / "COMPLETE").read_bytes())
    except (OSError, ValueError):
        return None
    if marker.get("fingerprint") != fingerprint:
        return None
    if any(digest_file(folder / name) != marker["sha256"][name] for name in _FILES):
        return None
    return _mapped(folder)


def _mapped(folder: Path) -> TokenStore:
    tokens, offsets, ids = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in _FILES)
    return TokenStore(tokens, np.asarray(offsets), np.asarray(ids))


def _write(folder: Path, fingerprint: str, ids: npt.NDArray[np.uint64], chunks: Iterable[_Chunk]) -> TokenStore:
    """The store of these texts' tokens, written chunk by chunk: what is in memory is one chunk and the lengths."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lengths = np.zeros(len(ids), dtype=np.int64)
    done = total = 0
    with (partial / "tokens.npy").open("wb") as file:
        _write_header(file, 0)
        for tokens, part in chunks:
            tokens.astype("<i4", copy=False).tofile(file)
            lengths[done : done + len(part)] = part
            done, total = done + len(part), total + len(tokens)
        file.seek(0)
        _write_header(file, total)
    np.save(partial / "offsets.npy", _offsets_of(lengths), allow_pickle=False)
    np.save(partial / "text_ids.npy", ids, allow_pickle=False)
    marker = {"fingerprint": fingerprint, "sha256": {name: digest_file(partial / name) for name in _FILES}}
    (partial / "COMPLETE").write_text(json.dumps(marker, sort_keys=True) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return _mapped(folder)


def _write_header(file: BinaryIO, tokens: int) -> None:
    """The .npy header of this many tokens; it has the same size for any number, so it can be written over."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": (tokens,)})
