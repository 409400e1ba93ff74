"""An index on disk: vectors and passages of one corpus under one model, both mapped into memory, never loaded whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core.errors import InputError
from components.core.fingerprint import digest_json
from components.core.manifest import Dataset
from components.core.progress import Progress
from components.core.prompts import wrap
from components.search.corpus import corpus_table
from components.training.encoder import Encoder

Floats = NDArray[np.float32]

FORMAT = "embedmill-index/1"
FOLDER = Path(".embedmill/index")
# The models are trained so that the first 256 dimensions rank nearly as well as all; a quarter of the memory.
DIMS = 256
BATCH = 4096
KEPT = 3


@dataclass(frozen=True)
class Index:
    """Unit vectors [N, D] of passages [N], in the same order."""

    vectors: Floats
    passages: pa.Table

    def nearest(self, query: Floats, k: int) -> tuple[list[int], list[float]]:
        """Rows and cosines of the k passages nearest to a unit query [D], best first; equal ones in corpus order."""
        scores = self.vectors @ query
        k = min(k, len(scores))
        if k == 0:
            return [], []
        edge = np.partition(scores, -k)[-k]
        rows = np.flatnonzero(scores >= edge)
        rows = rows[np.argsort(-scores[rows], kind="stable")][:k]
        return rows.tolist(), scores[rows].tolist()


def encode_short(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """Unit vectors [N, min(DIMS, native)] of texts [N]: the first Matryoshka dimensions, normalised again."""
    vectors = encoder.encode(texts)[:, :DIMS]
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny), np.float32)


def open_index(encoder: Encoder, corpus: Sequence[str]) -> Index:
    """The index of the datasets at the URIs `corpus`; built on first use, then found by model and data digests.

    Raises InputError for a corpus without passages.
    """
    datasets = [Dataset.open(uri) for uri in corpus]
    key = digest_json([FORMAT, encoder.digest, DIMS, [dataset.digest for dataset in datasets]])
    folder = FOLDER / key[:32]
    if not folder.is_dir():
        _build(folder, encoder, datasets)
    with pa.memory_map(str(folder / "passages.arrow")) as source:
        passages = pa.ipc.open_file(source).read_all()
    return Index(np.load(folder / "vectors.npy", mmap_mode="r"), passages)


def _build(folder: Path, encoder: Encoder, datasets: Sequence[Dataset]) -> None:
    """Write all files beside `folder` and give them its name at the end, so that an index is whole or absent."""
    passages = corpus_table(datasets)
    if not len(passages):
        raise InputError(f"{', '.join(dataset.uri for dataset in datasets)}: no passages to search")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as part:
        files = Path(part) / "index"
        files.mkdir()
        _write_vectors(files / "vectors.npy", encoder, passages["text"])
        with pa.OSFile(str(files / "passages.arrow"), "wb") as sink, pa.ipc.new_file(sink, passages.schema) as writer:
            writer.write_table(passages)
        try:
            files.rename(folder)
        except OSError:  # another process has just built the same index
            if not folder.is_dir():
                raise
    _remove_old(keep=folder)


def _write_vectors(path: Path, encoder: Encoder, texts: Any) -> None:
    shape = (len(texts), min(DIMS, encoder.dims))
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
    with Progress("index passages", len(texts), "passages") as bar:
        for start in range(0, len(texts), BATCH):
            batch = texts.slice(start, BATCH).to_pylist()
            vectors[start : start + len(batch)] = encode_short(encoder, wrap(encoder.prompts.passage, batch))
            bar.advance(len(batch))
    vectors.flush()


def _remove_old(keep: Path) -> None:
    """Each model and corpus makes an index of its own; only the newest few stay."""
    others = [path for path in FOLDER.iterdir() if path.is_dir() and path != keep and not path.name.startswith(".")]
    others.sort(key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)
    for path in others[KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
