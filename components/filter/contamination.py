"""Texts of the evaluation suite inside training rows: equal as normalised, or near-duplicates verified by Jaccard."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core import storage
from components.core.textnorm import normalise_keys, text_ids
from components.filter.minhash import band_hashes, cut, signatures
from components.filter.shingles import Unit, jaccard, shingle_sets
from components.filter.texts import SAMPLE_CHARACTERS, ShardTexts

CLEAN, EXACT, NEAR = 0, 1, 2
# Of the suite's texts in one bucket of a band, a training text is compared with this many.
_BUCKET = 16


@dataclass(frozen=True)
class Reference:
    """The suite's texts, ready to be looked up: keys [R] in the order of their ids [R], band hashes [B, R] in the order
    that `band_rows` [B, R] gives."""

    keys: list[str]
    key_ids: NDArray[np.uint64]
    bands: NDArray[np.uint64]
    band_rows: NDArray[np.int64]

    @classmethod
    def of(cls, texts: Sequence[str], near: float | None, unit: Unit = "character") -> Reference:
        """Index texts for exact matches and, unless `near` is None, for near-duplicates from that Jaccard on."""
        distinct = sorted({*normalise_keys(texts)} - {""})
        ids = text_ids(distinct)
        order = np.argsort(ids, kind="stable")
        keys = [distinct[index] for index in order]
        bands = np.empty((0, len(keys)), np.uint64)
        if near is not None and keys:
            bands = band_hashes(signatures([key[:SAMPLE_CHARACTERS] for key in keys], unit), cut(near, sides=1))
        rows = np.argsort(bands, axis=1, kind="stable")
        return cls(keys, ids[order], np.take_along_axis(bands, rows, axis=1), rows)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the reference holds."""
        return hashlib.sha256(self.key_ids.tobytes() + self.bands.tobytes()).hexdigest()

    def write(self, uri: str) -> None:
        """Write as one Arrow file, atomically."""
        columns = {"key": pa.array(self.keys, pa.string()), "key_id": pa.array(self.key_ids)}
        for band, (hashes, rows) in enumerate(zip(self.bands, self.band_rows, strict=True)):
            columns |= {f"band_{band}": pa.array(hashes), f"row_{band}": pa.array(rows)}
        buffer = io.BytesIO()
        table = pa.table(columns)
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        storage.write_bytes(uri, buffer.getvalue())

    @classmethod
    def read(cls, uri: str) -> Reference:
        """The inverse of `write`."""
        table = pa.ipc.open_file(pa.BufferReader(storage.read_bytes(uri))).read_all()
        count = (table.num_columns - 2) // 2
        shape = (count, len(table))
        bands = np.array([table[f"band_{band}"].to_numpy() for band in range(count)], np.uint64).reshape(shape)
        rows = np.array([table[f"row_{band}"].to_numpy() for band in range(count)], np.int64).reshape(shape)
        return cls(table["key"].to_pylist(), table["key_id"].to_numpy(), bands, rows)


def contaminated_texts(
    texts: ShardTexts,
    among: NDArray[np.int64],
    signature: NDArray[np.uint32],
    reference: Reference,
    near: float | None,
    unit: Unit,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """For each distinct text [T] CLEAN, EXACT or NEAR, and the reference text that it matches (-1 if none).

    Only the texts `among` [A] are looked at; `signature` [VALUES, A] are their signatures.
    """
    status = np.full(len(texts.texts), CLEAN, np.uint8)
    match = np.full(len(texts.texts), -1, np.int64)
    if not len(among) or not reference.keys:
        return status, match
    found = np.searchsorted(reference.key_ids, texts.key_ids[among])
    found = np.minimum(found, len(reference.keys) - 1)
    equal = reference.key_ids[found] == texts.key_ids[among]
    status[among[equal]], match[among[equal]] = EXACT, found[equal]
    if near is None:
        return status, match
    others = np.flatnonzero(~equal)
    mine, theirs = _candidates(band_hashes(signature[:, others], cut(near, sides=1)), reference)
    mine = among[others[mine]]
    mine_distinct, left = np.unique(mine, return_inverse=True)
    theirs_distinct, right = np.unique(theirs, return_inverse=True)
    keys = [texts.keys[index] for index in mine_distinct] + [reference.keys[index] for index in theirs_distinct]
    sets = shingle_sets([key[:SAMPLE_CHARACTERS] for key in keys], unit)
    right = right + len(mine_distinct)
    # Jaccard cannot exceed the ratio of the sizes
    sizes = sets.sizes
    possible = np.minimum(sizes[left], sizes[right]) >= near * np.maximum(sizes[left], sizes[right])
    mine, theirs = mine[possible], theirs[possible]
    similar = jaccard(sets, left[possible], right[possible]) >= near
    for index, other in zip(mine[similar].tolist(), theirs[similar].tolist(), strict=True):
        if match[index] < 0:
            status[index], match[index] = NEAR, other
    return status, match


def _candidates(bands: NDArray[np.uint64], reference: Reference) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (text, reference text) that share a band hash, each once, sorted."""
    count = len(reference.keys)
    pairs = [np.empty(0, np.int64)]
    for hashes, theirs, rows in zip(bands, reference.bands, reference.band_rows, strict=True):
        first = np.searchsorted(theirs, hashes, side="left")
        sizes = np.minimum(np.searchsorted(theirs, hashes, side="right") - first, _BUCKET)
        mine = np.repeat(np.arange(len(hashes)), sizes)
        inside = np.arange(len(mine)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        pairs.append(mine * count + rows[np.repeat(first, sizes) + inside])
    unique = np.unique(np.concatenate(pairs))
    return unique // count, unique % count
