"""Vectors of static encoders: the mean of the vectors of a text's tokens, as sentence-transformers' StaticEmbedding."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError, UsageError
from components.training.words import Words

# Texts that are tokenised at once.
BATCH_TEXTS = 4096


class BagEncoder:
    """A table of token vectors and its tokenizer as a function from texts [N] to vectors [N, dims], not normalised."""

    def __init__(self, weights: Path, tokenizer: Path) -> None:
        """Read both files. Raises InputError if one is damaged, UsageError if there is no table in `weights`."""
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        try:
            tensors, reader = load_file(weights), Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # tokenizers raises nothing more precise
            raise InputError(f"{weights.parent}: not a readable model ({type(error).__name__}: {error})") from None
        if "embedding.weight" not in tensors:
            raise UsageError(f"{weights}: expected a tensor named embedding.weight, found {', '.join(sorted(tensors))}")
        self._table_VD = tensors["embedding.weight"].to(torch.float32)
        reader.no_padding()
        self._words = Words(reader)
        self.dims = int(self._table_VD.shape[1])

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [N, dims] of texts [N]; one without a known token gives zeros. Each text is summed by itself."""
        import torch
        from torch.nn.functional import embedding_bag

        vectors_ND = np.empty((len(texts), self.dims), np.float32)
        for start in range(0, len(texts), BATCH_TEXTS):
            tokens, lengths = self._words.tokenise(texts[start : start + BATCH_TEXTS])
            offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
            with torch.inference_mode():
                bags = embedding_bag(torch.from_numpy(tokens), self._table_VD, offsets.to(torch.int32), mode="mean")
            vectors_ND[start : start + len(lengths)] = bags.numpy()
        return vectors_ND


def read_config(folder: Path) -> dict[str, Any]:
    """What a sentence-transformers folder says of the whole model; nothing if it has no such file."""
    file = folder / "config_sentence_transformers.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return config


def static_files(folder: Path) -> tuple[Path, Path] | None:
    """Weights and tokenizer of a folder that is a static embedding and nothing that changes a direction."""
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    default_prompt = read_config(folder).get("default_prompt_name")
    if kinds[:1] != ["StaticEmbedding"] or set(kinds[1:]) - {"Normalize"} or default_prompt:
        return None
    part = folder / str(modules[0]["path"])
    return part / "model.safetensors", part / "tokenizer.json"
