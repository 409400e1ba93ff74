"""Transformers that exist already: read from a folder of sentence-transformers or transformers, or from the hub.

Weights come from safetensors alone, and no code of the folder is run.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core import storage
from components.core.errors import InputError, UsageError
from components.core.teacher import HUB_NAME
from components.training.transformer import (
    CONFIG,
    FAMILIES,
    POOLING_KEYS,
    TRANSFORMER,
    WEIGHTS,
    Pooling,
    TransformerModel,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import nn

POOLING_NAMES = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"),
)

_NO_VOCABULARY = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")


def find_folder(name: str) -> Path:
    """The folder that ``name`` means: a folder here or in S3, or a model of the hub. Raises UsageError for others."""
    folder = Path(name)
    if folder.is_dir():
        return folder
    if storage.is_s3(name):
        from components.training.origin import stored_folder

        return stored_folder(name, "model")
    if HUB_NAME.fullmatch(name):
        from components.training.origin import hub_folder

        return hub_folder(name, "model")
    raise UsageError(f"model {name!r}: no such folder; allowed: a model's folder, or a hub name (org/name)")


def read_transformer(folder: Path, pooling: Pooling | None = None) -> TransformerModel:
    """The transformer in a sentence-transformers folder or in one that transformers wrote; nothing in it is executed.

    ``pooling`` replaces the folder's; one without any is pooled by the mean. Raises UsageError for a model of another
    kind, InputError for files that cannot be read or do not fit each other.
    """
    places = _places(folder)
    root = folder / places["Transformer"]
    config = _read_json(root / CONFIG)
    if not isinstance(config, dict):
        raise InputError(f"{root / CONFIG}: expected an object, found {type(config).__name__}")
    if config.get("model_type") not in FAMILIES:
        kind = config.get("model_type")
        raise UsageError(f"{folder}: a {kind} model; transformers trained here are {', '.join(FAMILIES)}")
    if not (root / WEIGHTS).is_file() and not (root / f"{WEIGHTS}.index.json").is_file():
        raise UsageError(f"{folder}: no {WEIGHTS}, and weights in other formats are not opened")
    if not any((root / name).is_file() for name in TOKENIZER_FILES if name not in _NO_VOCABULARY):
        raise InputError(f"{folder}: no tokenizer.json, and no vocabulary to make one of")
    encoder, tokenizer = _read_parts(folder, root)
    backend = tokenizer.backend_tokenizer
    settings = _read_json(root / TRANSFORMER) if (root / TRANSFORMER).is_file() else {}
    files = {name: (root / name).read_bytes() for name in TOKENIZER_FILES if (root / name).is_file()}
    files.setdefault("tokenizer_config.json", b"{}")
    if settings.get("do_lower_case"):
        _lower(backend)
        files["tokenizer.json"] = backend.to_str(pretty=True).encode()
    stored, dense = _read_pooling(folder, places), _read_dense(folder, places)
    model = TransformerModel(encoder, backend, pooling or stored, 1, dense, files)
    model.limit_tokens(min(int(settings.get("max_seq_length") or tokenizer.model_max_length), model.capacity))
    _check_fit(folder, model)
    return model


def _read_parts(folder: Path, root: Path) -> tuple[Any, Any]:
    """Encoder in fp32 and tokenizer, read from local files alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    logging = importlib.import_module("transformers.utils.logging")
    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    torch.manual_seed(0)  # a pooler that the file does not have is drawn at random
    try:
        encoder, found = AutoModel.from_pretrained(
            str(root), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **safe
        )
        tokenizer = AutoTokenizer.from_pretrained(str(root), **safe)
    except Exception as error:  # any of several libraries may be the one that cannot read its part
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{folder}: not a readable model ({type(error).__name__}: {line})") from None
    finally:
        logging.set_verbosity(before)
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise InputError(
            f"{folder}: {WEIGHTS} lacks {len(missing)} tensors that {CONFIG} asks for, such as {missing[0]}"
        )
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UsageError(f"{folder}: its tokenizer is none of the tokenizers library; save a tokenizer.json beside it")
    return encoder, tokenizer


def _places(folder: Path) -> dict[str, str]:
    """Folder of each module, by kind."""
    if not (folder / "modules.json").is_file():
        return {"Transformer": ""}
    modules = _read_json(folder / "modules.json")
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in (
        [],
        ["Dense"],
        ["Normalize"],
        ["Dense", "Normalize"],
    ):
        raise UsageError(f"{folder}: made of {', '.join(kinds)}; allowed: Transformer, Pooling, Dense, Normalize")
    return dict(zip(kinds, (str(module["path"]) for module in modules), strict=True))


def _read_pooling(folder: Path, places: dict[str, str]) -> Pooling:
    if "Pooling" not in places:
        return "mean"
    config = _read_json(folder / places["Pooling"] / CONFIG)
    named = config.get("pooling_mode")
    modes = [mode for mode, key in POOLING_KEYS.items() if config.get(key)]
    others = [key for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
    if named in POOLING_NAMES:
        modes, others = [POOLING_NAMES[named]], [named]
    if len(modes) != 1 or len(others) != 1:
        raise UsageError(f"{folder}: pooling {named or others}; allowed: one of {', '.join(POOLING_KEYS)}")
    mode: Pooling = modes[0]  # type: ignore[assignment]
    return mode


def _read_dense(folder: Path, places: dict[str, str]) -> nn.Linear | None:
    import torch
    from safetensors.torch import load_file

    if "Dense" not in places:
        return None
    part = folder / places["Dense"]
    config = _read_json(part / CONFIG)
    activation = str(config.get("activation_function", "")).rsplit(".", 1)[-1]
    if activation != "Identity" or config.get("use_residual"):
        raise UsageError(f"{folder}: its Dense layer is not linear ({activation}); allowed: activation Identity")
    dense = torch.nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    try:
        tensors = load_file(part / WEIGHTS)
        dense.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in tensors.items()})
    except Exception as error:  # safetensors and torch each have their own
        line = str(error).strip().splitlines()[0]
        raise InputError(f"{part}: not a readable Dense layer ({type(error).__name__}: {line})") from None
    return dense


def _check_fit(folder: Path, model: TransformerModel) -> None:
    """Raise InputError if the tokenizer makes tokens that the encoder has no row for, or no special ones."""
    rows = int(model.encoder.get_input_embeddings().num_embeddings)
    vocabulary = model.tokenizer.get_vocab(with_added_tokens=True)
    token, largest = max(vocabulary.items(), key=lambda item: item[1], default=("", -1))
    if largest >= rows:
        raise InputError(
            f"{folder}: tokenizer and model do not fit: token {token!r} has number {largest}, the model {rows} rows"
        )
    if not model.tokenizer.num_special_tokens_to_add(is_pair=False):
        raise InputError(f"{folder}: its tokenizer puts no special token ([CLS] …) around a text, as the model needs")
    width = model.encoder.config.hidden_size
    if model.dense is not None and model.dense.in_features != width:
        raise InputError(f"{folder}: Dense takes {model.dense.in_features} dimensions, the encoder gives {width}")


def _lower(tokenizer: Tokenizer) -> None:
    """Lower-case before anything else, as sentence-transformers does for ``do_lower_case``."""
    from tokenizers import normalizers

    rest = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
