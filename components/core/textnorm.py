"""Text keys: what counts as "the same text" for deduplication, contamination checks and the no-duplicates batches."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import xxhash

# Invisible characters: controls that are not whitespace, soft hyphen, zero-width and bidirectional marks, variation
# selectors, the byte-order mark, tag characters.
INVISIBLE = (
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff"
)
_INVISIBLE = re.compile(f"[{INVISIBLE}]+")
_ASCII_INVISIBLE = bytes(code for code in range(128) if _INVISIBLE.match(chr(code)))
_ASCII_LOWER = bytes(range(256)).lower()


def normalise_key(text: str) -> str:
    """The key under which texts count as the same: NFKC, case folded, whitespace collapsed, invisible characters gone.

    Idempotent. Meant for comparing, never for training: it loses case, width and layout.
    """
    if text.isascii():
        # the same as below, five times as fast: NFKC leaves ASCII alone and case folding is lower case
        return " ".join(text.encode().translate(_ASCII_LOWER, _ASCII_INVISIBLE).decode().split())
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    # folding can leave decomposed letters, and composing can bring an invisible compatibility character out
    return " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFKC", folded)).split())


def text_id(text: str) -> int:
    """64-bit xxh3 of the raw text: its identity wherever a text is stored or encoded once."""
    return xxhash.xxh3_64_intdigest(text.encode())


def text_ids(texts: Iterable[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """`text_id` of each text, as uint64 [N]."""
    return np.fromiter((xxhash.xxh3_64_intdigest(text.encode()) for text in texts), np.uint64)


def key_ids(texts: Iterable[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """`text_id` of the normalised key of each text, as uint64 [N]: equal where texts count as the same."""
    return text_ids(map(normalise_key, texts))
