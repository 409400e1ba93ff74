"""A model that is served: texts in, unit vectors and the number of tokens read out.

A static model needs numpy and its tokenizer only. A transformer goes the way that other steps read it, with torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError, UsageError
from components.core.prompts import Prompts, wrap
from components.training.bags import read_config, static_files

Floats = NDArray[np.float32]
# Texts [N] → vectors [N, D], of any length, and how many tokens were read.
Embed = Callable[[Sequence[str]], tuple[Floats, int]]

PROBE = "a"


@dataclass(frozen=True)
class ServedModel:
    """A loaded model: its name and version, and the dimensions that its vectors may be cut to, the full one first."""

    name: str
    version: str
    dims: tuple[int, ...]
    prompts: Prompts
    embed: Embed = field(repr=False)

    @property
    def names(self) -> tuple[str, str]:
        """What a request may call it: whatever version is served, or this one only."""
        return self.name, f"{self.name}/{self.version}"

    def encode(self, texts: Sequence[str], dims: int, prompt: str = "") -> tuple[Floats, int]:
        """Unit vectors [N, dims] of texts [N] and the tokens read; a text without a known token gives zeros."""
        vectors_ND, tokens = self.embed(wrap(prompt, texts))
        vectors_ND = vectors_ND[:, :dims]
        norms_N = np.sqrt(np.einsum("nd,nd->n", vectors_ND, vectors_ND))
        return vectors_ND / np.maximum(norms_N, np.finfo(np.float32).tiny)[:, None], tokens


def open_model(folder: Path, name: str, version: str) -> ServedModel:
    """Load a sentence-transformers folder and try it.

    Raises InputError if it is damaged, UsageError if it needs what is not installed.
    """
    if not (folder / "modules.json").is_file():
        raise UsageError(f"{folder}: no modules.json; expected a sentence-transformers folder")
    try:
        config, static = read_config(folder), static_files(folder)
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder}: not a readable model ({error})") from None
    embed = _open_static(*static) if static else _open_transformer(folder)
    vectors_ND, _ = embed([PROBE])
    full = int(vectors_ND.shape[1])
    if not np.isfinite(vectors_ND).all():
        raise InputError(f"{folder}: its vectors are no finite numbers")
    cuts = {int(cut) for cut in config.get("matryoshka_dims") or ()}
    dims = (full, *sorted((cut for cut in cuts if cut < full), reverse=True))
    return ServedModel(name, version, dims, Prompts.of(config), embed)


def _open_static(weights: Path, tokenizer_file: Path) -> Embed:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    try:
        tensors: dict[str, Any] = load_file(weights)
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        table_VD = np.asarray(tensors["embedding.weight"], np.float32)
    except Exception as error:  # tokenizers raises nothing more precise
        raise InputError(f"{weights.parent}: not a readable model ({type(error).__name__}: {error})") from None
    if table_VD.ndim != 2 or len(table_VD) < tokenizer.get_vocab_size() or not np.isfinite(table_VD).all():
        raise InputError(f"{weights}: expected a row of finite numbers for each of the tokenizer's tokens")
    tokenizer.no_padding()

    def embed(texts: Sequence[str]) -> tuple[Floats, int]:
        vectors_ND = np.zeros((len(texts), table_VD.shape[1]), np.float32)
        tokens = 0
        for row, encoding in enumerate(tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)):
            if ids := encoding.ids:
                table_VD[ids].mean(axis=0, out=vectors_ND[row])
                tokens += len(ids)
        return vectors_ND, tokens

    return embed


def _open_transformer(folder: Path) -> Embed:
    missing = [name for name in ("torch", "sentence_transformers") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{folder}: no plain static embedding, so it needs {' and '.join(missing)}, which the serve image leaves "
            "out; serve it with the train image (embedmill-train)"
        )
    from components.training.dense import DenseEncoder

    encoder = DenseEncoder(folder)

    def embed(texts: Sequence[str]) -> tuple[Floats, int]:
        return encoder(texts), encoder.count_tokens(texts)

    return embed
