"""Pre-tokenised texts: memory-mapped int32 tokens with offsets, addressed by 64-bit text ids.

Tokenising costs more than training a static model, so each distinct text is tokenised once and the result is
kept on disk; epochs, mining and the fine-tuning step read it from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.core.fingerprint import digest_file
from components.core.textnorm import text_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CHUNK = 8192  # texts handed to the tokenizer at once: enough to keep its threads busy, little to hold in memory
_FILES = ("tokens.npy", "offsets.npy", "text_ids.npy")


@dataclass(frozen=True)
class Bags:
    """Token ids of B texts laid end to end; text b owns ``tokens[offsets[b]:offsets[b + 1]]``.

    ``tokens``: int32 [T]; ``offsets``: int64 [B + 1].
    """

    tokens: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each text, int64 [B]."""
        return np.diff(self.offsets)


def tokenise(tokenizer: Tokenizer, texts: Sequence[str]) -> Bags:
    """Tokens of ``texts``, without special tokens, exactly as sentence-transformers' StaticEmbedding sees them."""
    chunks: list[npt.NDArray[np.int32]] = []
    lengths = np.zeros(len(texts), dtype=np.int64)
    for start in range(0, len(texts), _CHUNK):
        encodings = tokenizer.encode_batch_fast(list(texts[start : start + _CHUNK]), add_special_tokens=False)
        for index, encoding in enumerate(encodings, start):
            ids = encoding.ids
            lengths[index] = len(ids)
            chunks.append(np.array(ids, dtype=np.int32))
    tokens = np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int32)
    return Bags(tokens, _offsets_of(lengths))


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

    def rows(self, text_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Row of each text id, int64, same shape. Ids must be in the store."""
        return np.searchsorted(self.text_ids, text_ids).astype(np.int64)

    def rows_of(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Row of each text, int64 [N]. Texts must be in the store."""
        return self.rows(text_ids(texts))

    def bags(self, rows: npt.NDArray[np.int64]) -> Bags:
        """Tokens of the texts at ``rows`` [B], in that order."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = _offsets_of(lengths)
        within = np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], lengths)
        return Bags(np.asarray(self.tokens[within]), offsets)


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
    bags = tokenise(tokenizer, [unique[row] for row in order])
    _write(folder, fingerprint, dict(zip(_FILES, (bags.tokens, bags.offsets, ids[order]), strict=True)))
    return TokenStore(bags.tokens, bags.offsets, ids[order])


def _offsets_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
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
    tokens, offsets, ids = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in _FILES)
    return TokenStore(tokens, np.asarray(offsets), np.asarray(ids))


def _write(folder: Path, fingerprint: str, arrays: dict[str, npt.NDArray[Any]]) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(partial / name, array, allow_pickle=False)
    marker = {"fingerprint": fingerprint, "sha256": {name: digest_file(partial / name) for name in arrays}}
    (partial / "COMPLETE").write_text(json.dumps(marker, sort_keys=True) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
