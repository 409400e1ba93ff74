"""Shingles of texts, hashed, and the exact Jaccard similarity of shingle sets.

A shingle is WIDTH units in a row: characters, or words if so wanted and the text's script has spaces. A text is padded
by WIDTH - 1 boundary marks on both sides, so L units give L + WIDTH - 1 shingles, every unit is in exactly WIDTH of
them, and even a text of one unit has a set. One unit replaced by another therefore changes WIDTH shingles wherever it
stands: Jaccard is at most (L - 1) / (L + 2 * WIDTH - 1), which passes 0.85 only from 58 units on. That is what keeps
short questions apart that differ in one meaningful character or word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Unit = Literal["character", "word"]

WIDTH = 5
# Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, kana, Han. A text with one such letter has
# characters for units, whatever is wanted, so that its set depends on the text alone.
_SPACELESS = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_BOUNDARY = "\0" * (WIDTH - 1)  # normalised keys hold no control characters, so this is no text
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
OWNER_BITS = 12
VALUE_BITS = 64 - OWNER_BITS  # 52 bits a shingle: two sets of 2,000 collide once in a billion comparisons
BATCH_TEXTS = 1 << OWNER_BITS


@dataclass(frozen=True)
class ShingleSets:
    """Sets of shingle hashes of VALUE_BITS bits, sorted; the set of text i is values[offsets[i]:offsets[i + 1]]."""

    values: NDArray[np.uint64]
    offsets: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of distinct shingles of each text, int64 [N]."""
        return np.diff(self.offsets)


def shingle_hashes(texts: Sequence[str], unit: Unit) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash every shingle of every text: (hashes [S], first hash of each text [N]).

    A rolling polynomial over units, then the splitmix64 finaliser; 64 bits make collisions within a comparison
    negligible. An empty text has WIDTH - 1 meaningless hashes: callers tell it by its length.
    """
    joined = _BOUNDARY.join(["", *texts, ""])
    codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    units: NDArray[np.uint64] | NDArray[np.uint32] = codes
    if unit == "word":
        spaced = np.fromiter((not _SPACELESS.search(text) for text in texts), bool, len(texts))
        units, lengths = _words(codes, lengths, spaced)
    count = len(units) - (WIDTH - 1)
    hashes = units[:count].astype(np.uint64)
    for position in range(1, WIDTH):
        hashes *= _MULTIPLIER
        hashes += units[position : count + position]
    _scramble(hashes)
    lengths = lengths + (WIDTH - 1)
    return hashes, np.cumsum(lengths) - lengths


def _words(
    codes: NDArray[np.uint32], lengths: NDArray[np.int64], spaced: NDArray[np.bool_]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Units of joined texts when those of `spaced` texts [N] are words, and how many each text has."""
    padded = lengths + (WIDTH - 1)
    in_words = np.zeros(len(codes), bool)
    in_words[WIDTH - 1 :] = np.repeat(spaced, padded)
    letter = in_words & (codes != 0) & (codes != ord(" "))
    starts = np.flatnonzero(letter[1:] & ~letter[:-1]) + 1  # a boundary stands at both ends
    ends = np.flatnonzero(letter[:-1] & ~letter[1:]) + 1
    powers = np.full(len(codes), _MULTIPLIER)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(codes * powers)])
    words = (sums[ends] - sums[starts]) * _power_of_inverse(starts)
    _scramble(words)
    units = codes.astype(np.uint64)
    units[starts] = words
    first = np.zeros(len(codes), bool)
    first[starts] = True
    stands = first | ~in_words | (codes == 0)
    owner = np.repeat(np.arange(len(lengths)), padded)[stands[WIDTH - 1 :]]
    return units[stands], np.bincount(owner, minlength=len(lengths)) - (WIDTH - 1)


def _power_of_inverse(exponents: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The inverse of the multiplier to these sorted powers, modulo 2⁶⁴."""
    powers = np.full(int(exponents[-1]) + 1 if len(exponents) else 1, _INVERSE)
    powers[0] = 1
    np.multiply.accumulate(powers, out=powers)
    result: NDArray[np.uint64] = powers[exponents]
    return result


def _scramble(hashes: NDArray[np.uint64]) -> None:
    """The splitmix64 finaliser, in place."""
    hashes ^= hashes >> np.uint64(30)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    hashes ^= hashes >> np.uint64(27)
    hashes *= np.uint64(0x94D049BB133111EB)
    hashes ^= hashes >> np.uint64(31)


def batches(texts: Sequence[str], characters: int) -> Iterator[slice]:
    """Slices of `texts` of about `characters` characters, at most BATCH_TEXTS texts: the arrays of one stay small."""
    start = total = 0
    for index, text in enumerate(texts):
        total += len(text) + WIDTH
        if total >= characters or index + 1 - start == BATCH_TEXTS:
            yield slice(start, index + 1)
            start, total = index + 1, 0
    if start < len(texts):
        yield slice(start, len(texts))


def shingle_sets(texts: Sequence[str], unit: Unit = "character") -> ShingleSets:
    """The exact shingle set of each text; an empty text has an empty set."""
    values, sizes = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    for batch in batches(texts, 1 << 20):
        hashes, starts = shingle_hashes(texts[batch], unit)
        owner = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(hashes)))
        keyed = np.sort(_keyed(owner, hashes >> np.uint64(OWNER_BITS)))
        keyed = keyed[np.flatnonzero(np.diff(keyed, prepend=~keyed[:1]))]
        owner = (keyed >> np.uint64(VALUE_BITS)).astype(np.int64)
        real = np.fromiter(map(bool, texts[batch]), bool, len(starts))
        values.append(keyed[real[owner]] & np.uint64((1 << VALUE_BITS) - 1))
        sizes.append(np.bincount(owner, minlength=len(starts)) * real)
    return ShingleSets(np.concatenate(values), np.cumsum(np.concatenate(sizes)))


def jaccard(sets: ShingleSets, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact Jaccard similarity of the sets left[e] and right[e] for each edge e, float64 [E]; 0 for empty sets."""
    blocks = range(0, len(left), BATCH_TEXTS)
    parts = [_jaccard(sets, left[start : start + BATCH_TEXTS], right[start : start + BATCH_TEXTS]) for start in blocks]
    return np.concatenate([np.empty(0), *parts])


def _jaccard(sets: ShingleSets, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """One block of edges: a shingle that both sides hold meets itself when each edge's two sets are sorted together."""
    sizes = sets.sizes[left] + sets.sizes[right]
    nodes = np.stack([left, right], axis=1).ravel()
    values = sets.values[_ranges(sets.offsets[nodes], sets.sizes[nodes])]
    keyed = np.sort(_keyed(np.repeat(np.arange(len(left)), sizes), values))
    shared = keyed[1:][keyed[1:] == keyed[:-1]]
    common = np.bincount((shared >> np.uint64(VALUE_BITS)).astype(np.int64), minlength=len(left))
    union = sizes - common
    return np.asarray(common / np.maximum(union, 1), np.float64)


def _keyed(owner: NDArray[np.int64], values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One sortable word for each value: its owner above, the value below."""
    return (owner.astype(np.uint64) << np.uint64(VALUE_BITS)) | values


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The indices of all ranges [start, start + size), one after the other."""
    before = np.cumsum(sizes) - sizes
    indices: NDArray[np.int64] = np.arange(sizes.sum()) + np.repeat(starts - before, sizes)
    return indices
