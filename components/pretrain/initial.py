"""The table before the first step: random rows weighted by what a token says, with a teacher's meaning mixed in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.core.errors import InputError, UsageError
from components.training.vocabulary import document_frequency

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from components.training.encoder import Encoder
    from components.training.tokens import TokenStore

_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003134f]")


def initial_table(
    tokenizer: Tokenizer,
    stores: Sequence[TokenStore],
    dims: int,
    seed: int,
    teachers: Mapping[str, Encoder],
    teacher_share: float,
    weight_V: npt.NDArray[np.float32] | None = None,
) -> npt.NDArray[np.float32]:
    """Rows idf · (R + teacher_share · T·G) of unit variance overall, float32 [V, dims]; ``weight_V`` replaces idf.

    R and the projections G are Gaussian; T holds the teacher's vector of each token's string, centred and of length 1.
    Random rows weighted by inverse document frequency are a projection of tf–idf, and rank nearly as it does before
    training begins; the teacher brings related words near one another. Tokens without a teacher have T = 0.
    """
    count = tokenizer.get_vocab_size()
    rng = np.random.default_rng(seed)
    table_VD = rng.standard_normal((count, dims), dtype=np.float32)
    frequency_V = np.sum([document_frequency(store, count) for store in stores], axis=0)
    lang_V = np.array(["zh" if _HAN.search(token) else "en" for token in _strings(tokenizer)])
    for lang, teacher in sorted(teachers.items()):
        projection_ED = rng.standard_normal((teacher.dims, dims), dtype=np.float32)
        mine = np.flatnonzero(lang_V == lang)
        if teacher_share and len(mine):
            strings = _strings(tokenizer)
            vector_NE = teacher.encode([strings[token] for token in mine])
            vector_NE = _unit(vector_NE - np.average(vector_NE, axis=0, weights=frequency_V[mine] + 1.0))
            table_VD[mine] += teacher_share * (vector_NE @ projection_ED)
    if weight_V is None:
        weight_V = np.log((sum(map(len, stores)) + 1) / (frequency_V + 1)).astype(np.float32)
    table_VD *= weight_V[:, None]
    return table_VD / max(float(table_VD.std(dtype=np.float64)), 1e-6)


def read_vectors(path: str, tokenizer: Tokenizer, dims: int) -> npt.NDArray[np.float32]:
    """Start vectors by token number from a .npy or .safetensors file, float32 [V, dims].

    Raises InputError for a file that cannot be read, UsageError for one of another shape.
    """
    table_VD, count = _read_array(path, "pretrain.model.vectors"), tokenizer.get_vocab_size()
    if table_VD.shape != (count, dims):
        raise UsageError(
            f"pretrain.model.vectors: {path} has the shape {list(table_VD.shape)}; expected {count} tokens of "
            f"{dims} dimensions (the largest of pretrain.matryoshka.dims)"
        )
    return table_VD


def read_token_weights(path: str, tokenizer: Tokenizer) -> npt.NDArray[np.float32]:
    """Weight of each token, float32 [V]: by number from .npy or .safetensors, or by token from .json (others 1).

    Raises InputError for a file that cannot be read, UsageError for one that does not fit.
    """
    key, count = "pretrain.model.token_weights", tokenizer.get_vocab_size()
    if path.endswith(".json"):
        given = _read_json(path)
        weight_V, vocabulary = np.ones(count, dtype=np.float32), tokenizer.get_vocab()
        if not isinstance(given, dict) or not all(isinstance(value, int | float) for value in given.values()):
            raise UsageError(f"{key}: {path}: expected an object of token: number")
        for token, value in given.items():
            if token in vocabulary:
                weight_V[vocabulary[token]] = value
        return weight_V
    weight_V = _read_array(path, key)
    if weight_V.shape != (count,):
        raise UsageError(f"{key}: {path} has the shape {list(weight_V.shape)}; expected a number for {count} tokens")
    return weight_V


def _read_array(path: str, key: str) -> npt.NDArray[np.float32]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.endswith((".npy", ".safetensors")):
        raise UsageError(f"{key}: {path}: expected a .npy or .safetensors file")
    try:
        if path.endswith(".npy"):
            array = np.load(path, allow_pickle=False)
        else:
            tensors = load_file(path)
            if len(tensors) != 1:
                raise UsageError(f"{key}: {path} holds {len(tensors)} tensors; expected one")
            array = next(iter(tensors.values()))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise InputError(f"{path}: expected finite floating-point numbers, found {array.dtype}")
    values: npt.NDArray[np.float32] = array.astype(np.float32)
    return values


def _read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


def principal_axes(vector_NE: npt.NDArray[np.float32], dims: int, seed: int) -> npt.NDArray[np.float32]:
    """Vectors turned so that the leading dimensions hold most of their length, float32 [N, dims].

    Only then is the head of a teacher's vector a target for the head of a Matryoshka student's. A student with more
    dimensions than the teacher gets rotated copies behind: the cosines stay the teacher's, learned more than once.
    """
    width, rng = vector_NE.shape[1], np.random.default_rng(seed)
    moment_EE = vector_NE.T.astype(np.float64) @ vector_NE.astype(np.float64)
    axes_EE = np.linalg.eigh(moment_EE)[1][:, ::-1]
    turns = [axes_EE]
    while width * len(turns) < dims:
        turns.append(axes_EE @ np.linalg.qr(rng.standard_normal((width, width)))[0])
    axes_ED = np.concatenate(turns, axis=1)[:, :dims].astype(np.float32)
    target_ND: npt.NDArray[np.float32] = vector_NE @ axes_ED
    return target_ND


def _strings(tokenizer: Tokenizer) -> list[str]:
    """The string of each token by id; a token's marks of its place in a word are no part of it."""
    by_id = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    return [token.removeprefix("##").strip("▁Ġ") or token for _, token in by_id]


def _unit(vector_NE: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    norm_N1 = np.linalg.norm(vector_NE, axis=1, keepdims=True)
    unit_NE: npt.NDArray[np.float32] = (vector_NE / np.maximum(norm_N1, 1e-12)).astype(np.float32)
    return unit_NE
