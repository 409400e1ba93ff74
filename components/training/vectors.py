"""Vectors by text, kept below one folder for each encoder, so that a text is embedded once whoever asks for it.

A store is a flat file of vectors and an SQLite index from text id to place and checksum. A look-up costs the same
however many vectors there are; a chunk is added in one transaction, after its vectors are on the disk, so that a killed
process loses at most the chunk it was at. Several processes may use one store.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from components.core.errors import InputError
from components.core.execute import map_ordered
from components.core.fingerprint import digest_file, digest_json
from components.core.teacher import Precision
from components.core.textnorm import text_ids
from components.training.encoder import Encoder, open_encoder

Floats = NDArray[np.float32]
Ids = NDArray[np.uint64]

# Vectors of teachers, shared by all steps.
TEACHER_CACHE = Path(".embedmill/cache/teacher")
# Texts that are encoded and stored at once.
CHUNK = 4096
# Ids of one query.
QUERY_IDS = 8192
# Pairs whose vectors are multiplied at once.
BLOCK_PAIRS = 8192
LOCK_SECONDS = 120.0
# The modules whose code decides a vector's bits.
VECTOR_CODE = ("encoder.py", "bags.py", "dense.py", "universal.py", "endpoint.py")


def encode_cached(
    encoder: Encoder,
    texts: Sequence[str],
    cache_dir: str | Path,
    workers: int = 1,
    advance: Callable[[int], None] | None = None,
) -> Floats:
    """As `encoder.encode`, keeping vectors by text in a store below `cache_dir`; each different text is encoded once.

    Missing texts are encoded by `workers` processes in chunks; a finished chunk survives an interruption. `advance` is
    told how many more different texts are done. Raises InputError if the store cannot be written.
    """
    identifiers, first, inverse = np.unique(text_ids(texts), return_index=True, return_inverse=True)
    advance = advance or (lambda count: None)
    store = VectorStore(Path(cache_dir) / f"{encoder.digest}-{code_version()}", encoder.dims)
    vectors, found = store.get(identifiers)
    advance(int(found.sum()))
    missing = np.flatnonzero(~found)
    chunks = [missing[start : start + CHUNK] for start in range(0, len(missing), CHUNK)]
    workers = 1 if encoder.threaded else min(workers, len(chunks))
    work = encoder.encode if workers <= 1 else partial(_encode_in_worker, encoder.origin, encoder.precision)
    jobs = ([texts[row] for row in first[chunk]] for chunk in chunks)
    for chunk, made in zip(chunks, map_ordered(work, jobs, workers), strict=True):
        store.put(identifiers[chunk], made)
        vectors[chunk] = made
        advance(len(chunk))
    in_order = len(identifiers) == len(texts) and bool((np.diff(inverse) == 1).all())
    return vectors if in_order else vectors[inverse]


def cosines(vectors: Floats, left: NDArray[np.int64], right: NDArray[np.int64]) -> Floats:
    """Cosines [N] of rows `left` and `right` of normalised vectors [T, D]; infinite where one is zero or not finite."""
    usable = np.logical_and(np.isfinite(vectors).all(axis=1), vectors.any(axis=1))
    found = np.full(len(left), np.inf, np.float32)
    for start in range(0, len(left), BLOCK_PAIRS):
        one, other = left[start : start + BLOCK_PAIRS], right[start : start + BLOCK_PAIRS]
        products = np.einsum("nd,nd->n", vectors[one], vectors[other])
        found[start : start + BLOCK_PAIRS] = np.where(usable[one] & usable[other], products, np.inf)
    return found


class VectorStore:
    """Vectors of `dims` numbers by 64-bit id, below a folder that is made by the first `put`."""

    def __init__(self, folder: Path, dims: int) -> None:
        self._index, self._vectors, self._dims = folder / "index.sqlite", folder / "vectors.f32", dims

    def get(self, identifiers: Ids) -> tuple[Floats, NDArray[np.bool_]]:
        """Vectors [N, dims] of ids [N], and which of them were found [N]; the others are zero.

        A vector that is not what was stored counts as not found, and so does everything behind a damaged index.
        """
        vectors = np.zeros((len(identifiers), self._dims), np.float32)
        found = np.zeros(len(identifiers), bool)
        if not (self._index.is_file() and self._vectors.is_file()):
            return vectors, found
        size = self._vectors.stat().st_size // (4 * self._dims)
        if not size:
            return vectors, found
        held = np.memmap(self._vectors, np.float32, "r", shape=(size, self._dims))
        order = np.argsort(identifiers)
        wanted = identifiers[order]
        for start in range(0, len(wanted), QUERY_IDS):
            rows = self._look_up(wanted[start : start + QUERY_IDS])
            rows = rows[rows["place"] < size]
            target = order[np.searchsorted(wanted, rows["id"])]
            vectors[target] = held[rows["place"]]
            found[target] = _checksums(vectors[target]) == rows["checksum"]
        vectors[~found] = 0
        return vectors, found

    def put(self, identifiers: Ids, vectors: Floats) -> None:
        """Store vectors [N, dims] under ids [N], all or none. Raises InputError if the folder cannot be written."""
        self._vectors.parent.mkdir(parents=True, exist_ok=True)
        checksums = _checksums(vectors)
        try:
            with self._connect() as index, index:
                index.execute("BEGIN IMMEDIATE")
                first = self._append(vectors)
                places = range(first, first + len(vectors))
                rows = zip(_signed(identifiers), places, _signed(checksums), strict=True)
                index.executemany("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", rows)
        except (OSError, sqlite3.Error) as error:
            raise InputError(f"{self._vectors.parent}: vectors cannot be stored ({error})") from None

    def _append(self, vectors: Floats) -> int:
        """Write vectors to the end of the file, which no one else does meanwhile; returns the place of the first."""
        row_bytes = 4 * self._dims
        with self._vectors.open("ab") as file:
            file.write(bytes(-file.tell() % row_bytes))  # a part of a row, from a writer that was killed
            first = file.tell() // row_bytes
            file.write(np.ascontiguousarray(vectors, np.float32).tobytes())
            file.flush()
            os.fsync(file.fileno())
        return first

    def _look_up(self, identifiers: Ids) -> NDArray[np.void]:
        query = "SELECT id, place, checksum FROM places WHERE id IN (SELECT value FROM json_each(?))"
        try:
            with self._connect() as index:
                rows = index.execute(query, (json.dumps(_signed(identifiers)),)).fetchall()
        except sqlite3.OperationalError as error:
            raise InputError(f"{self._index}: cannot be read ({error})") from None
        except sqlite3.DatabaseError:
            for path in (self._index, self._vectors):
                path.unlink(missing_ok=True)
            rows = []
        columns = [("id", np.int64), ("place", np.int64), ("checksum", np.int64)]
        return np.array(rows, columns).astype([("id", np.uint64), ("place", np.int64), ("checksum", np.uint64)])

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._index, timeout=LOCK_SECONDS, isolation_level=None)) as index:
            index.execute("CREATE TABLE IF NOT EXISTS places (id INTEGER PRIMARY KEY, place INTEGER, checksum INTEGER)")
            yield index


def _signed(values: Ids) -> list[int]:
    """64-bit values as SQLite's signed integers."""
    signed: list[int] = values.view(np.int64).tolist()
    return signed


def _checksums(vectors: Floats) -> Ids:
    return np.fromiter((xxhash.xxh3_64_intdigest(vector) for vector in vectors), np.uint64, len(vectors))


def _encode_in_worker(origin: str, precision: Precision, texts: Sequence[str]) -> Floats:
    return _worker_encoder(origin, precision).encode(texts)


@lru_cache(maxsize=2)
def _worker_encoder(origin: str, precision: Precision) -> Encoder:
    return open_encoder(origin, precision)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Changes with the code that makes vectors, so that a store never mixes two ways of making them."""
    return digest_json([digest_file(Path(__file__).with_name(name)) for name in VECTOR_CODE])[:8]
