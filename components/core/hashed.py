"""Logistic regression on hashed n-grams, evaluated over whole batches of texts at once.

It computes what scikit-learn's HashingVectorizer and LogisticRegression do, without a Python object for each n-gram:
texts are folded by a table of characters, the UTF-8 bytes of all n-grams are hashed together, and what a text holds is
sorted. The buckets are exactly scikit-learn's; a logit is summed in the order of the buckets, in float64, so that it
depends on the text alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_BATCH_CHARACTERS = 1 << 15
_OWNED = 1 << 32  # a bucket and the number of its text in the batch share 32 bits
_SPACE = 0x20
_TABLE_SIZE = 0x32400  # no character above is folded, is whitespace or stands in a word
_LONGEST_GRAM = 3

Codes = NDArray[np.uint32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class HashedGrams:
    """The distinct n-grams of a text, of `orders` (first, last), as buckets below `features`.

    Texts are lower-cased and lose accents and compatibility forms (NFKD). `char` counts characters, runs of whitespace
    as one space; `word` counts runs of letters, digits and underscores, joined by a space.
    """

    analyzer: Literal["char", "word"]
    orders: tuple[int, int]
    features: int

    @classmethod
    def of(cls, vectoriser: Any) -> HashedGrams | None:
        """What this scikit-learn transformer computes; None if it is, or does, anything else."""
        from sklearn.feature_extraction.text import HashingVectorizer

        if type(vectoriser) is not HashingVectorizer or vectoriser.n_features > _OWNED >> 8:
            return None
        given = vectoriser.get_params()
        known = {"binary": True, "alternate_sign": False, "strip_accents": "unicode"}
        known |= {name: given[name] for name in ("analyzer", "ngram_range", "n_features", "dtype")}
        if given["analyzer"] == "word":
            known["token_pattern"] = r"(?u)\b\w+\b"
        if given["analyzer"] not in ("char", "word") or given != HashingVectorizer(**known).get_params():
            return None
        first, last = given["ngram_range"]
        if not 1 <= first <= last <= _LONGEST_GRAM:
            return None
        return cls(given["analyzer"], (int(first), int(last)), int(given["n_features"]))

    def buckets(self, texts: Sequence[str]) -> tuple[Indices, Indices]:
        """The buckets of each text [N], sorted and distinct, [S], and the number of the text that holds each, [S]."""
        values, owners = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for batch in _batches(texts, _OWNED // self.features):
            keyed = self._keyed(texts[batch])
            found, bucket = np.divmod(keyed, np.uint32(self.features))
            values.append(bucket.astype(np.int64))
            owners.append(found.astype(np.int64) + batch.start)
        return np.concatenate(values), np.concatenate(owners)

    def _keyed(self, texts: Sequence[str]) -> Codes:
        """Distinct (text, bucket) as one number each, sorted."""
        codes, sizes = _fold(texts)
        owner = np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)
        codes, owner = (_one_space if self.analyzer == "char" else _words)(codes, owner)
        data = codes.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass").encode("utf-8")
        width = 1 + (codes >= 0x80).view(np.uint8) + (codes >= 0x800) + (codes >= 0x10000)
        offsets = np.concatenate([[0], np.cumsum(width, dtype=np.int64)])
        if self.analyzer == "char":
            starts, ends = offsets[:-1], offsets[1:]
        else:
            stands = codes != _SPACE
            first = np.flatnonzero(stands & np.concatenate([[True], _changes(owner) | ~stands[:-1]]))
            last = np.flatnonzero(stands & np.concatenate([_changes(owner) | ~stands[1:], [True]]))
            starts, ends, owner = offsets[first], offsets[last + 1], owner[first]
        words = _words_of_bytes(data)
        keyed = []
        for order in range(self.orders[0] - 1, self.orders[1]):
            count = max(0, len(starts) - order)
            whole = owner[:count] == owner[order:]
            begin, own = starts[:count][whole], owner[:count][whole]
            hashed = _murmur3(words, begin, ends[order:][whole] - begin)
            bucket = np.minimum(hashed, -hashed) % np.uint32(self.features)  # of the absolute signed value
            keyed.append(own * np.uint32(self.features) + bucket)
        result = np.sort(np.concatenate(keyed))
        return result[np.concatenate([[True], _changes(result)])] if len(result) else result


@dataclass(frozen=True)
class HashedRegression:
    """The logit of a class: the bias and, for each part, the mean weight of a text's n-grams times √(their number)."""

    parts: tuple[tuple[HashedGrams, NDArray[np.float64]], ...]
    bias: float

    @classmethod
    def of(cls, model: Any) -> HashedRegression | None:
        """What a scikit-learn pipeline computes if it joins HashedGrams into a logistic regression of two classes; None
        for any other model. The logit is that of its second class."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import FeatureUnion, Pipeline

        if type(model) is not Pipeline or len(model.steps) != 2:
            return None
        union, regression = (step for _, step in model.steps)
        if type(union) is not FeatureUnion or union.transformer_weights or type(regression) is not LogisticRegression:
            return None
        grams = [HashedGrams.of(vectoriser) for _, vectoriser in union.transformer_list]
        known = [each for each in grams if each is not None]
        features = np.cumsum([0, *(each.features for each in known)])
        if len(known) < len(grams) or len(regression.classes_) != 2 or regression.coef_.shape != (1, features[-1]):
            return None
        weights = np.split(regression.coef_[0].astype(np.float64), features[1:-1])
        return cls(tuple(zip(known, weights, strict=True)), float(regression.intercept_[0]))

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probability of the second class for each text, [N]."""
        result = np.empty(len(texts))
        for batch in _batches(texts, len(texts)):
            logits = np.full(batch.stop - batch.start, self.bias)
            for grams, weights in self.parts:
                buckets, owner = grams.buckets(texts[batch])
                number = np.bincount(owner, minlength=len(logits))
                logits += np.bincount(owner, weights[buckets], len(logits)) / np.sqrt(np.maximum(number, 1))
            with np.errstate(over="ignore"):
                result[batch] = 1 / (1 + np.exp(-logits))
        return result


def _batches(texts: Sequence[str], most: int) -> Iterator[slice]:
    """Slices of about _BATCH_CHARACTERS characters, of at most `most` texts."""
    start = total = 0
    for index, text in enumerate(texts):
        total += len(text)
        if total >= _BATCH_CHARACTERS or index + 1 - start == most:
            yield slice(start, index + 1)
            start, total = index + 1, 0
    if start < len(texts):
        yield slice(start, len(texts))


def _changes(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(values[1:] != values[:-1])


@dataclass(frozen=True)
class _Characters:
    """What each character below _TABLE_SIZE becomes: values[starts[c]:starts[c] + sizes[c]]; which of them are
    whitespace, and which stand in words."""

    starts: Codes
    sizes: NDArray[np.uint8]
    values: Codes
    space: NDArray[np.bool_]
    word: NDArray[np.bool_]


@lru_cache(maxsize=1)
def _characters() -> _Characters:
    letters = [chr(code) for code in range(_TABLE_SIZE)]
    folded = [
        "".join(part for part in unicodedata.normalize("NFKD", letter.lower()) if not unicodedata.combining(part))
        for letter in letters
    ]
    sizes = np.fromiter(map(len, folded), np.uint8, _TABLE_SIZE)
    values = np.frombuffer("".join(folded).encode("utf-32-le", "surrogatepass"), np.uint32)
    starts = (np.cumsum(sizes, dtype=np.int64) - sizes).astype(np.uint32)
    space = np.fromiter(map(str.isspace, letters), bool, _TABLE_SIZE)
    word = np.fromiter((letter.isalnum() or letter == "_" for letter in letters), bool, _TABLE_SIZE)
    # the last place stands for all above, and for a character that is folded to nothing
    return _Characters(starts, sizes, np.append(values, np.uint32(0)), np.append(space, False), np.append(word, False))


def _fold(texts: Sequence[str]) -> tuple[Codes, Indices]:
    """Folded texts as code points, one after the other, and the size of each [N].

    A character is folded by itself: marks, which alone could change places, all go. Only the small form of Σ depends on
    where it stands.
    """
    table = _characters()
    texts = [text.lower() if "Σ" in text else text for text in texts]
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    above = codes >= _TABLE_SIZE
    known = np.where(above, np.uint32(0), codes)
    parts = table.sizes[known]
    folded = table.values[table.starts[known]]
    np.copyto(folded, codes, where=above)
    if (parts != 1).any():
        ends = np.cumsum(parts, dtype=np.int64)
        folded = np.repeat(folded, parts)
        for index in np.flatnonzero(parts > 1).tolist():
            start = table.starts[codes[index]]
            folded[ends[index] - parts[index] : ends[index]] = table.values[start : start + parts[index]]
        sizes = np.diff(np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(sizes)])])
    return folded, sizes


def _one_space(codes: Codes, owner: Codes) -> tuple[Codes, Codes]:
    """Runs of two whitespace characters or more become a space; a single one stays what it is."""
    space = _characters().space[np.minimum(codes, _TABLE_SIZE)]
    again = np.zeros(len(codes), bool)
    again[1:] = space[1:] & space[:-1] & ~_changes(owner)
    if not again.any():
        return codes, owner
    codes = codes.copy()
    codes[np.flatnonzero(again) - 1] = _SPACE  # the first of a run is one of these
    return codes[~again], owner[~again]


def _words(codes: Codes, owner: Codes) -> tuple[Codes, Codes]:
    """What stands between words becomes a space."""
    word = _characters().word[np.minimum(codes, _TABLE_SIZE)]
    codes = np.where(word, codes, np.uint32(_SPACE))
    keep = word.copy()
    keep[1:] |= word[:-1]
    return codes[keep], owner[keep]


def _words_of_bytes(data: bytes) -> Codes:
    """The four bytes from each byte on as a little-endian number."""
    padded = np.frombuffer(data + bytes(4), np.uint8)
    return np.ndarray((len(data) + 1,), "<u4", padded, strides=(1,)).astype(np.uint32)


def _murmur3(words: Codes, starts: Indices, sizes: Indices) -> Codes:
    """MurmurHash3_x86_32 (Appleby) with seed 0 of the `sizes` bytes from `starts` on, uint32 [G]."""
    hashed = np.zeros(len(starts), np.uint32)
    longest = int(sizes.max(initial=0))
    for block in range(0, longest - 3, 4):
        full = np.flatnonzero(sizes >= block + 4)
        mixed = hashed[full] ^ _scrambled(words[starts[full] + block])
        hashed[full] = _rotated(mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    rest = sizes & 3
    mask = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF], np.uint32)[rest]
    hashed ^= _scrambled(words[starts + (sizes - rest)] & mask)
    hashed ^= sizes.astype(np.uint32)
    hashed ^= hashed >> np.uint32(16)
    hashed *= np.uint32(0x85EBCA6B)
    hashed ^= hashed >> np.uint32(13)
    hashed *= np.uint32(0xC2B2AE35)
    hashed ^= hashed >> np.uint32(16)
    return hashed


def _scrambled(words: Codes) -> Codes:
    return _rotated(words * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)


def _rotated(values: Codes, bits: int) -> Codes:
    return (values << np.uint32(bits)) | (values >> np.uint32(32 - bits))
