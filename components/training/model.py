"""Models, static or transformer: encode, save and load, in sentence-transformers' folder format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.core import storage
from components.core.errors import InputError, UsageError
from components.training.pretrained import read_transformer
from components.training.static import bag_mean
from components.training.tokens import tokenise
from components.training.trainee import StaticTrainee
from components.training.transformer import CONFIG, Passes, TransformerModel, json_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.StaticEmbedding"},
    {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
]
_WEIGHT = "embedding.weight"
_BATCH = 4096


@dataclass
class StaticModel:
    """A tokenizer and one fp32 row for each of its tokens; a text's embedding is its tokens' mean, normalised."""

    tokenizer: Tokenizer
    weight_VD: Tensor  # noqa: N815

    @property
    def dims(self) -> int:
        """Dimensions of the full embedding."""
        return int(self.weight_VD.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 over tokenizer and weights."""
        digest = hashlib.sha256(self.tokenizer.to_str().encode())
        digest.update(self.weight_VD.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """L2-normalised embeddings, float32 [N, D]; a text without known tokens gives a zero vector."""
        from torch.nn.functional import normalize

        rows = np.empty((len(texts), self.dims), dtype=np.float32)
        bags = tokenise(self.tokenizer, texts)
        for start in range(0, len(texts), _BATCH):
            mean_BD = bag_mean(self.weight_VD.detach(), bags[start : start + _BATCH])
            rows[start : start + _BATCH] = normalize(mean_BD, dim=1).numpy()
        return rows

    def files(self) -> dict[str, bytes]:
        """The folder's files by path, without modules.json; the same model gives the same bytes."""
        from safetensors.torch import save

        return {
            "model.safetensors": save({_WEIGHT: self.weight_VD.detach().contiguous()}),
            "tokenizer.json": self.tokenizer.to_str(pretty=True).encode(),
            "1_Normalize/config.json": json_bytes({}),
        }

    def modules(self) -> list[dict[str, Any]]:
        """What modules.json lists."""
        return _MODULES

    def trainee(self, passes: Passes) -> StaticTrainee:
        """The table as the loop trains it, in place; a mean has no passes to be cut or rounded."""
        return StaticTrainee(self.weight_VD)


Model = StaticModel | TransformerModel


def save_model(model: Model, uri: str, config: dict[str, Any], files: dict[str, bytes] | None = None) -> None:
    """Write the folder that ``SentenceTransformer(uri)`` loads; ``modules.json`` last, so that a part is no model.

    ``config`` goes into config_sentence_transformers.json, ``files`` beside it. Same model, same bytes.
    """
    storage.remove(storage.join(uri, "modules.json"))
    content = {
        "config_sentence_transformers.json": json_bytes(
            {"model_type": "SentenceTransformer", "prompts": {}, "similarity_fn_name": "cosine"} | config
        ),
        **model.files(),
        **(files or {}),
    }
    for name, data in content.items():
        storage.write_bytes(storage.join(uri, name), data)
    storage.write_bytes(storage.join(uri, "modules.json"), json_bytes(model.modules()))


def load_model(uri: str) -> tuple[Model, dict[str, Any]]:
    """The model in a folder, here or in S3, and its config. Raises InputError if the folder does not hold one."""
    finished, started = (
        storage.exists(storage.join(uri, name)) for name in ("modules.json", "config_sentence_transformers.json")
    )
    plain = not started and storage.exists(storage.join(uri, CONFIG))  # what transformers itself writes
    if not finished and not plain:
        raise InputError(f"{uri}: no modules.json, so this is no finished model; run the step that makes it")
    config = _read_config(storage.join(uri, "config_sentence_transformers.json")) if started else {}
    if finished and b"StaticEmbedding" in storage.read_bytes(storage.join(uri, "modules.json")):
        return _load_static(uri), config
    with storage.local_folder(uri) as folder:
        return read_transformer(folder), config


def _read_config(uri: str) -> dict[str, Any]:
    try:
        config = json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise InputError(f"{uri}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{uri}: expected an object, found {type(config).__name__}")
    return config


def check_dims(model: Model, dims: int, key: str) -> None:
    """Raise UsageError if ``dims``, asked for by parameter ``key``, are more than the model's."""
    if dims > model.dims:
        raise UsageError(f"{key}: {dims} dimensions, but the model has {model.dims}; allowed: up to {model.dims}")


def _load_static(uri: str) -> StaticModel:
    from safetensors import SafetensorError
    from safetensors.torch import load
    from tokenizers import Tokenizer

    try:
        tensors = load(storage.read_bytes(storage.join(uri, "model.safetensors")))
        tokenizer = Tokenizer.from_str(storage.read_bytes(storage.join(uri, "tokenizer.json")).decode())
        weight_VD = tensors[_WEIGHT]
    except InputError:
        raise
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{uri}: not a static embedding model ({type(error).__name__}: {error})") from None
    if len(weight_VD) != tokenizer.get_vocab_size():
        raise InputError(f"{uri}: {len(weight_VD)} embedding rows, but {tokenizer.get_vocab_size()} tokens")
    tokenizer.no_padding()
    return StaticModel(tokenizer, weight_VD.float())
