"""The distinct texts of a shard: what is measured once for each text is then looked up for each row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.core.records import pair_texts
from components.core.textnorm import normalise_keys, text_ids

# Of a longer text, this many characters stand for the whole where shares and shingles are concerned.
SAMPLE_CHARACTERS = 2000


@dataclass(frozen=True)
class ShardTexts:
    """Distinct texts [T] of a shard with their keys, and where each row's texts are among them.

    `left` and `right` [N] are the sides of the pair; `negative` [M] are the hard negatives, `negative_row` [M] the rows
    that they belong to. A missing side is the empty text.
    """

    texts: list[str]
    keys: list[str]
    key_ids: NDArray[np.uint64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    negative: NDArray[np.int64]
    negative_row: NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> ShardTexts:
        """Index the texts of records of SCHEMA."""
        left, right = pair_texts(table)
        lists = table["text_neg"].combine_chunks()
        everything = pa.concat_arrays([left, right, lists.flatten()])
        encoded = pc.fill_null(everything, "").dictionary_encode()
        codes = encoded.indices.to_numpy().astype(np.int64)
        texts = encoded.dictionary.to_pylist()
        keys = normalise_keys(texts)
        rows = len(table)
        return cls(
            texts=texts,
            keys=keys,
            key_ids=text_ids(keys),
            left=codes[:rows],
            right=codes[rows : 2 * rows],
            negative=codes[2 * rows :],
            negative_row=pc.list_parent_indices(lists).to_numpy().astype(np.int64),
        )

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Characters of each text, int64 [T]."""
        return np.fromiter(map(len, self.texts), np.int64, len(self.texts))

    @cached_property
    def key_lengths(self) -> NDArray[np.int64]:
        """Characters of each key, int64 [T]."""
        return np.fromiter(map(len, self.keys), np.int64, len(self.keys))
