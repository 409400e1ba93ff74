"""What a finished model is, read from the files of its folder, so that a card says what is there and nothing else."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from components.core import storage

# Families by the model_type of their config.
NAMES = {"bert": "BERT", "roberta": "RoBERTa", "xlm-roberta": "XLM-RoBERTa", "modernbert": "ModernBERT"}
LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLED = {
    "cls": "the vector of the first token",
    "mean": "the mean of the tokens' vectors",
    "lasttoken": "the vector of the last token",
}


@dataclass(frozen=True)
class Architecture:
    """Kind of model (`static` or `transformer`), its number of parameters, and what a reader wants to know of it."""

    kind: str
    parameters: int
    sentences: tuple[str, ...]


def read_architecture(uri: str) -> Architecture:
    """The architecture of the sentence-transformers folder at ``uri``."""
    modules = [(str(module["type"]).rsplit(".", 1)[-1], str(module["path"])) for module in _read(uri, "modules.json")]
    shapes = {path: _shapes(uri, path) for _, path in modules if storage.exists(_at(uri, path, "model.safetensors"))}
    parameters = sum(math.prod(shape) for tensors in shapes.values() for shape in tensors.values())
    kind, path = modules[0]
    if kind == "StaticEmbedding":
        tokens, dims = next(iter(shapes[path].values()))
        return Architecture("static", parameters, _static(uri, path, tokens, dims))
    return Architecture("transformer", parameters, tuple(_transformer(uri, modules, parameters)))


def _static(uri: str, path: str, tokens: int, dims: int) -> tuple[str, ...]:
    truncation = _read(uri, "tokenizer.json", path).get("truncation")
    limit = f" It reads the first {truncation['max_length']:,} tokens of a text." if truncation else ""
    return (
        f"A static text-embedding model: {tokens:,} token vectors of {dims} dimensions; a text is the mean of its "
        "tokens' vectors.",
        f"No attention and no GPU: tokenising limits the speed.{limit}",
    )


def _transformer(uri: str, modules: list[tuple[str, str]], parameters: int) -> list[str]:
    path = modules[0][1]
    config = _read(uri, "config.json", path)
    name = NAMES.get(config["model_type"], config["model_type"])
    sentences = [
        f"A transformer of the {name} family: {config['num_hidden_layers']} layers of {config['hidden_size']} with "
        f"{config['num_attention_heads']} attention heads, {config['vocab_size']:,} kinds of token, "
        f"{parameters:,} parameters."
    ]
    limit = _read(uri, "tokenizer_config.json", path).get("model_max_length")
    if limit:
        sentences.append(f"It reads the first {limit:,} tokens of a text, special ones included.")
    for kind, part in modules[1:]:
        if kind == "Pooling":
            found = _read(uri, "config.json", part)
            mode = found.get("pooling_mode") or next(mode for key, mode in LEGACY_POOLING.items() if found.get(key))
            sentences.append(f"A text is {POOLED.get(mode, mode)}.")
        elif kind == "Dense":
            found = _read(uri, "config.json", part)
            sentences.append(f"A scaling layer makes {found['out_features']} dimensions of {found['in_features']}.")
    return sentences


def _shapes(uri: str, path: str) -> dict[str, list[int]]:
    """Shapes of the tensors of a safetensors file, from its header."""
    with storage.open_read(_at(uri, path, "model.safetensors")) as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def _read(uri: str, name: str, path: str = "") -> Any:
    return json.loads(storage.read_bytes(_at(uri, path, name)))


def _at(uri: str, path: str, name: str) -> str:
    return storage.join(uri, path, name) if path else storage.join(uri, name)
