"""Counts of character classes: the one pass over code points that the language and heuristic rules read."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from components.filter.shingles import batches

CLASSES = ("space", "digit", "symbol", "han", "kana", "hangul", "latin", "other")
SPACE, DIGIT, SYMBOL, HAN, KANA, HANGUL, LATIN, OTHER = range(len(CLASSES))
_HAN = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x32400), (0x3005, 0x3008))
_KANA = ((0x3041, 0x3100), (0x31F0, 0x3200), (0xFF66, 0xFFA0))
_HANGUL = ((0x1100, 0x1200), (0x3130, 0x3190), (0xA960, 0xA980), (0xAC00, 0xD800))
_LATIN = ((0x41, 0x250), (0x1E00, 0x1F00), (0x2C60, 0x2C80), (0xA720, 0xA800), (0xFF21, 0xFF5B))
_EMOJI_MARKS = ((0x20D0, 0x2100), (0xFE00, 0xFE10))  # enclosing marks and variation selectors: they spell no word
_TABLE_SIZE = 0x32400  # assigned letters end here; what lies above is symbols and private use


def class_counts(texts: Sequence[str]) -> NDArray[np.int64]:
    """Characters of each class in each text, int64 [N, len(CLASSES)]."""
    counts = np.zeros((len(texts), len(CLASSES)), np.int64)
    table = _class_table()
    for batch in batches(texts, 1 << 20):
        codes = np.frombuffer("".join(texts[batch]).encode("utf-32-le"), np.uint32)
        classes = table[np.minimum(codes, _TABLE_SIZE)]
        lengths = np.fromiter(map(len, texts[batch]), np.int64)
        cells = np.repeat(np.arange(len(lengths)) * len(CLASSES), lengths) + classes
        counts[batch] = np.bincount(cells, minlength=len(lengths) * len(CLASSES)).reshape(-1, len(CLASSES))
    return counts


@lru_cache(maxsize=1)
def _class_table() -> NDArray[np.uint8]:
    """The class of each code point below _TABLE_SIZE, and of all above in the last place, uint8."""
    table = np.full(_TABLE_SIZE + 1, SYMBOL, np.uint8)
    for code in range(0x1FC00):
        category = unicodedata.category(chr(code))[0]
        if category in "LM":
            table[code] = OTHER
        elif category == "N":
            table[code] = DIGIT
        elif category == "Z" or code in (0x9, 0xA, 0xD):
            table[code] = SPACE
    letters = table == OTHER
    for script, ranges in ((LATIN, _LATIN), (HANGUL, _HANGUL), (KANA, _KANA)):
        for start, stop in ranges:
            table[start:stop][letters[start:stop]] = script
    for start, stop in _HAN:
        table[start:stop] = HAN
    for start, stop in _EMOJI_MARKS:
        table[start:stop] = SYMBOL
    return table
