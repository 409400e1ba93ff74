"""The static model: build, encode, save and load, in sentence-transformers' folder format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.core import storage
from components.core.errors import InputError
from components.training.static import bag_mean
from components.training.tokens import tokenise

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
        for start in range(0, len(texts), _BATCH):
            bags = tokenise(self.tokenizer, texts[start : start + _BATCH])
            rows[start : start + _BATCH] = normalize(bag_mean(self.weight_VD.detach(), bags), dim=1).numpy()
        return rows


def save_model(model: StaticModel, uri: str, config: dict[str, Any], files: dict[str, bytes] | None = None) -> None:
    """Write the folder that ``SentenceTransformer(uri)`` loads; ``modules.json`` last, so that a part is no model.

    ``config`` goes into config_sentence_transformers.json, ``files`` beside it. Same model, same bytes.
    """
    from safetensors.torch import save

    storage.remove(storage.join(uri, "modules.json"))
    content = {
        "model.safetensors": save({_WEIGHT: model.weight_VD.detach().contiguous()}),
        "tokenizer.json": model.tokenizer.to_str(pretty=True).encode(),
        "config_sentence_transformers.json": _json_bytes(
            {"model_type": "SentenceTransformer", "prompts": {}, "similarity_fn_name": "cosine"} | config
        ),
        "1_Normalize/config.json": _json_bytes({}),
        **(files or {}),
    }
    for name, data in content.items():
        storage.write_bytes(storage.join(uri, name), data)
    storage.write_bytes(storage.join(uri, "modules.json"), _json_bytes(_MODULES))


def load_model(uri: str) -> tuple[StaticModel, dict[str, Any]]:
    """The static model in a folder, and its config. Raises InputError if the folder does not hold one."""
    from safetensors import SafetensorError
    from safetensors.torch import load
    from tokenizers import Tokenizer

    if not storage.exists(storage.join(uri, "modules.json")):
        raise InputError(f"{uri}: no modules.json, so this is no finished model; run the step that makes it")
    try:
        tensors = load(storage.read_bytes(storage.join(uri, "model.safetensors")))
        tokenizer = Tokenizer.from_str(storage.read_bytes(storage.join(uri, "tokenizer.json")).decode())
        config = json.loads(storage.read_bytes(storage.join(uri, "config_sentence_transformers.json")))
        weight_VD = tensors[_WEIGHT]
    except InputError:
        raise
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{uri}: not a static embedding model ({type(error).__name__}: {error})") from None
    if len(weight_VD) != tokenizer.get_vocab_size():
        raise InputError(f"{uri}: {len(weight_VD)} embedding rows, but {tokenizer.get_vocab_size()} tokens")
    tokenizer.no_padding()
    return StaticModel(tokenizer, weight_VD.float()), config


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
