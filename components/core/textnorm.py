"""Text keys: what counts as "the same text" for deduplication, contamination checks and the no-duplicates batches."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
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
_IDEOGRAPHS = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x20000, 0x323AF))


def normalise_key(text: str) -> str:
    """The key under which texts count as the same.

    NFKC, case folded, traditional Chinese as simplified, whitespace collapsed, invisible characters gone. Idempotent.
    Meant for comparing, never for training: it loses case, width, layout and the variant of Chinese.
    """
    if text.isascii():
        # the same as below, five times as fast: NFKC leaves ASCII alone and case folding is lower case
        return " ".join(text.encode().translate(_ASCII_LOWER, _ASCII_INVISIBLE).decode().split())
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    # folding can leave decomposed letters, and composing can bring an invisible compatibility character out
    key = " ".join(_INVISIBLE.sub("", unicodedata.normalize("NFKC", folded)).split())
    traditional, simplified = _simplified()
    return key.translate(simplified) if traditional.search(key) else key


@lru_cache(maxsize=1)
def _simplified() -> tuple[re.Pattern[str], dict[int, str]]:
    """A pattern that finds ideographs to simplify, and what each becomes, by OpenCC's tables.

    Character by character, because a key must not depend on context: OpenCC's phrases keep the 乾 of 乾坤 and turn 瞭解
    into 了解, by a segmentation that a neighbouring character can change, and a second pass can find phrases that the
    first has made. What t2s leaves, and is no simplified form itself (Taiwan's 么 is another character), is folded by
    the Taiwan and Hong Kong tables: 著 to 着, 衞 to 卫.
    """
    import opencc

    letters = [chr(code) for first, last in _IDEOGRAPHS for code in range(first, last + 1)]
    lines = "\n".join(letters)
    t2s, tw2s, hk2s, s2t = (
        dict(zip(letters, opencc.OpenCC(name).convert(lines).split("\n"), strict=True))
        for name in ("t2s", "tw2s", "hk2s", "s2t")
    )
    simpler: dict[str, str] = {}
    for letter in letters:
        tables = (t2s,) if s2t[letter] != letter else (t2s, tw2s, hk2s)
        forms = [table[letter] for table in tables if table[letter] != letter]
        if forms:
            simpler[letter] = forms[0]
    table = {}
    for letter, simple in simpler.items():
        while simple in simpler:  # 薴 → 苧 → 苎
            simple = simpler[simple]
        table[ord(letter)] = simple
    # one class of the Basic Multilingual Plane is searched by a bitmap, twenty times as fast as one with all of them
    plain = "".join(chr(code) for code in table if code < 0x10000)
    return re.compile(f"[{plain}]|[\U00020000-\U000323af]"), table


def text_id(text: str) -> int:
    """64-bit xxh3 of the raw text: its identity wherever a text is stored or encoded once."""
    return xxhash.xxh3_64_intdigest(text.encode())


def text_ids(texts: Iterable[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """`text_id` of each text, as uint64 [N]."""
    return np.fromiter((xxhash.xxh3_64_intdigest(text.encode()) for text in texts), np.uint64)


def key_ids(texts: Iterable[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """`text_id` of the normalised key of each text, as uint64 [N]: equal where texts count as the same."""
    return text_ids(map(normalise_key, texts))
