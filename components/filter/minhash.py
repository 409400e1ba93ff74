"""MinHash signatures and the bands that find candidates for near-duplicates.

Sources: Broder 1997 (resemblance by minima of permutations); Ji et al. 2013, Min-Max Hash for Jaccard Similarity (the
maximum is a second value of each permutation, unbiased too and of no more variance: half the permuting for as many
values); Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, section 3.4 (banding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.filter.shingles import Unit, batches, shingle_hashes

VALUES = 128  # of a signature: minimum and maximum of each of half as many permutations
RECALL = 0.99
_BATCH_CHARACTERS = 1 << 16  # hashes and one permuted copy of them fit the second-level cache


@dataclass(frozen=True)
class Bands:
    """How signatures are cut: `count` bands of `rows` values of each side."""

    count: int
    rows: int


def signatures(texts: Sequence[str], unit: Unit = "character") -> NDArray[np.uint32]:
    """MinHash signatures of the texts' shingle sets, uint32 [VALUES, N]: all minima, then all maxima.

    A permutation is h → a·h + b modulo 2³² with odd a; an extreme over each text is one segmented reduction.
    """
    result = np.empty((VALUES, len(texts)), np.uint32)
    factors, terms = _permutations()
    for batch in batches(texts, _BATCH_CHARACTERS):
        long_hashes, starts = shingle_hashes(texts[batch], unit)
        hashes = (long_hashes >> np.uint64(32)).astype(np.uint32)
        permuted = np.empty_like(hashes)
        for index in range(VALUES // 2):
            np.multiply(hashes, factors[index], out=permuted)
            np.add(permuted, terms[index], out=permuted)
            np.minimum.reduceat(permuted, starts, out=result[index, batch])
            np.maximum.reduceat(permuted, starts, out=result[VALUES // 2 + index, batch])
    return result


def cut(threshold: float, sides: int) -> Bands:
    """The most selective bands that still find a pair at `threshold` with probability RECALL.

    A candidate agrees in all values of one band on each of its `sides`, so a pair whose sides all have Jaccard s is
    found with probability 1 - (1 - s ** (rows * sides)) ** count.
    """
    fitting = [
        rows for rows in range(1, VALUES + 1) if 1 - (1 - threshold ** (rows * sides)) ** (VALUES // rows) >= RECALL
    ]
    rows = max(fitting, default=1)
    return Bands(VALUES // rows, rows)


def band_hashes(signature: NDArray[np.uint32], bands: Bands) -> NDArray[np.uint64]:
    """One hash for each band of each text: uint64 [bands.count, N]."""
    result = np.zeros((bands.count, signature.shape[1]), np.uint64)
    for band in range(bands.count):
        for value in signature[band * bands.rows : (band + 1) * bands.rows]:
            result[band] = mix(result[band] + value)
    return result


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit values one to one (the murmur3 finaliser)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def _permutations() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The constants of the permutations: fixed for good, for signatures of different runs must agree."""
    stream = mix(np.arange(1, VALUES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    words = (stream >> np.uint64(32)).astype(np.uint32)
    return words[: VALUES // 2] | np.uint32(1), words[VALUES // 2 :]
