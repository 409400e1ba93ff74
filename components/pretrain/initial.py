"""The table before the first step: random rows weighted by what a token says, with a teacher's meaning mixed in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from components.training.vocabulary import document_frequency

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from components.training.encoder import Encoder
    from components.training.tokens import TokenStore

_HAN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003134f]")


def initial_table(
    tokenizer: Tokenizer, store: TokenStore, dims: int, seed: int, teachers: Mapping[str, Encoder], teacher_share: float
) -> npt.NDArray[np.float32]:
    """Rows idf · (R + teacher_share · T·G) of unit variance overall, float32 [V, dims].

    R and the projections G are Gaussian; T holds the teacher's vector of each token's string, centred and of length 1.
    Random rows weighted by inverse document frequency are a projection of tf–idf, and rank nearly as it does before
    training begins; the teacher brings related words near one another. Tokens without a teacher have T = 0.
    """
    count = tokenizer.get_vocab_size()
    rng = np.random.default_rng(seed)
    table_VD = rng.standard_normal((count, dims), dtype=np.float32)
    frequency_V = document_frequency(store, count)
    lang_V = np.array(["zh" if _HAN.search(token) else "en" for token in _strings(tokenizer)])
    for lang, teacher in sorted(teachers.items()):
        projection_ED = rng.standard_normal((teacher.dims, dims), dtype=np.float32)
        mine = np.flatnonzero(lang_V == lang)
        if teacher_share and len(mine):
            strings = _strings(tokenizer)
            vector_NE = teacher.encode([strings[token] for token in mine])
            vector_NE = _unit(vector_NE - np.average(vector_NE, axis=0, weights=frequency_V[mine] + 1.0))
            table_VD[mine] += teacher_share * (vector_NE @ projection_ED)
    table_VD *= np.log((len(store) + 1) / (frequency_V + 1)).astype(np.float32)[:, None]
    return table_VD / max(float(table_VD.std(dtype=np.float64)), 1e-6)


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
