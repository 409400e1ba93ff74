"""Text keys: what counts as "the same text" for deduplication, contamination checks and the no-duplicates batches."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

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


def normalise_keys(texts: Sequence[str]) -> list[str]:
    """`normalise_key` of each text, several times as fast: by a table of characters, over many texts at once."""
    keys: list[str] = [""] * len(texts)
    others = []
    for index, text in enumerate(texts):
        if text.isascii():
            keys[index] = normalise_key(text)
        else:
            others.append(index)
    for batch in _batches(others, texts):
        for index, key in zip(batch, _table_keys([texts[index] for index in batch]), strict=True):
            keys[index] = key
    return keys


def _batches(rows: Sequence[int], texts: Sequence[str]) -> Iterator[list[int]]:
    batch: list[int] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += len(texts[row])
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _table_keys(texts: Sequence[str]) -> list[str]:
    """Keys of texts that share one pass over their characters; a text with one outside the table has its own."""
    table = _key_table()
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = np.minimum(codes, _TABLE_SIZE)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
    sizes = table.sizes[codes]
    apart = {int(row) for row in np.searchsorted(ends, np.flatnonzero(sizes == _APART), side="right")}
    sizes[sizes == _APART] = 0
    before = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    ends, starts = before[ends], before[np.concatenate([[0], ends[:-1]])]
    if sizes.max(initial=0) <= 1:
        mapped = table.values[table.starts[codes[sizes == 1]]]
    else:
        inside = np.arange(before[-1]) - np.repeat(before[:-1], sizes)
        mapped = table.values[np.repeat(table.starts[codes], sizes) + inside]
    # of a run of spaces the first stays, except at the start of a text; a last one is cut off below
    space = mapped == _SPACE
    extra = space & np.concatenate([[True], space[:-1]])
    first = starts[starts < ends]
    extra[first] = space[first]
    after = np.concatenate([[0], np.cumsum(~extra)])
    mapped = mapped[~extra]
    starts, ends = after[starts], after[ends]
    full = ends > starts
    ends[full] -= mapped[ends[full] - 1] == _SPACE
    joined = mapped.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
    keys = [joined[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    for row in apart:
        keys[row] = normalise_key(texts[row])
    return keys


_SPACE = 0x20
_TABLE_SIZE = 0x10000
_APART = 255
_BATCH_CHARACTERS = 1 << 17


@dataclass(frozen=True)
class _KeyTable:
    """What each character becomes wherever it stands: values[starts[c]:starts[c] + sizes[c]] for c up to _TABLE_SIZE.

    `sizes` is _APART for characters whose key depends on their neighbours, and in the last place for all above.
    """

    starts: NDArray[np.uint32]
    sizes: NDArray[np.uint8]
    values: NDArray[np.uint32]


@lru_cache(maxsize=1)
def _key_table() -> _KeyTable:
    """The table, from `normalise_key` itself.

    What NFKC may join to the character before it stands apart: marks, and the second halves of canonical compositions,
    Hangul's vowels and finals among them (Unicode Standard Annex 15).
    """
    joining = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    for code in range(_TABLE_SIZE):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            joining.add(chr(int(parts[1], 16)))
    starts, sizes = np.zeros(_TABLE_SIZE + 1, np.uint32), np.full(_TABLE_SIZE + 1, _APART, np.uint8)
    values: list[int] = []
    for code in range(_TABLE_SIZE):
        character = chr(code)
        # between letters, so that a space is kept
        key = normalise_key(f"é{character}é")[1:-1]
        if any(each in joining or unicodedata.combining(each) for each in (*key, character)):
            continue
        starts[code], sizes[code] = len(values), len(key)
        values += map(ord, key)
    return _KeyTable(starts, sizes, np.array(values, np.uint32))


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
    return text_ids(normalise_keys(list(texts)))
