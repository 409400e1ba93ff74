"""Vectors of transformer encoders, in batches of texts of one length.

On a CPU a text's vector keeps every bit whatever shares its batch: no text is padded, attention stays inside a text,
and each linear layer is one oneDNN product whose rows do not depend on how many they are (from four on, which is seen
to here). On a GPU, and in half precision, products of other shapes take other kernels, so there every text meets the
same shape: lengths are rounded up to a multiple of 16 and batches filled up.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import InputError
from components.core.teacher import Precision

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]

# Tokens of one batch: above some hundred, products are as fast as they get; below some ten thousand they fit the cache.
BATCH_TOKENS = 2048
FILLED_BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}
LENGTH_STEP = 16
TOKENIZED_TEXTS = 4096
# Products of fewer rows take another kernel with another order of summation.
MIN_ROWS = 4
# What may follow a Transformer module for the lean path to do the same as SentenceTransformer.encode.
PLAIN_MODULES = {"Pooling", "Normalize", "Dense", "LayerNorm", "Dropout"}


class DenseEncoder:
    """A sentence-transformers folder as a function from texts [N] to vectors [N, dims], not yet normalised.

    `arithmetic` names what beside the weights decides the bits: device and precision.
    """

    def __init__(self, folder: Path, precision: Precision = "auto") -> None:
        """Load weights from safetensors only; code from the folder is never run. Raises InputError if unreadable."""
        import torch

        self._model = _load(folder)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = _resolve(precision, self.device, self._model)
        self.dims = int(self._model.get_embedding_dimension())
        self.arithmetic = f"{self.device}/{self.precision}"
        # exact: no padding, rows independent of how many there are
        self._exact = (self.device, self.precision) == ("cpu", "fp32") and bool(
            torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        )
        if self._exact:
            _pack_linears(self._model)
        self._model.eval().to(self.device, {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision))
        self._tokenizer = _lean_tokenizer(self._model)
        self._types = "token_type_ids" in getattr(self._model.tokenizer, "model_input_names", ())

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Vectors [N, dims] of texts [N]; one without a token gives zeros."""
        vectors_ND = np.zeros((len(texts), self.dims), np.float32)
        for start in range(0, len(texts), TOKENIZED_TEXTS):
            part = texts[start : start + TOKENIZED_TEXTS]
            tokens = self._tokenize(part)
            for rows in self._batches([len(ids) for ids in tokens]):
                batch = [part[row] for row in rows], [tokens[row] for row in rows]
                vectors_ND[[start + row for row in rows]] = self._embed(*batch)
        return vectors_ND

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens of texts [N] are read, special ones included."""
        return sum(map(len, self._tokenize(texts)))

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        if self._tokenizer is None:
            limit = int(self._model.max_seq_length or 0)
            return list(self._model.tokenizer(list(texts), truncation=limit > 0, max_length=limit or None)["input_ids"])
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Rows that are embedded together: of one length, or, where batches are filled, of one rounded length."""
        order = sorted((row for row in range(len(lengths)) if lengths[row]), key=lambda row: lengths[row])
        for length, group in itertools.groupby(order, key=lambda row: self._shape(lengths[row])[1]):
            rows, size = list(group), self._shape(length)[0]
            yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def _shape(self, length: int) -> tuple[int, int]:
        """Texts and tokens a text of the batch in which a text of so many tokens is embedded."""
        if self._exact or self._tokenizer is None:
            return max(1, BATCH_TOKENS // length), length
        rounded = -(-length // LENGTH_STEP) * LENGTH_STEP
        return max(1, FILLED_BATCH_TOKENS[self.device] // rounded), rounded

    def _embed(self, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> Floats:
        import torch

        if self._tokenizer is None:
            filled = [*texts, *itertools.repeat(texts[0], MIN_ROWS - len(texts))]
            vectors: Floats = self._model.encode(filled, batch_size=len(filled), show_progress_bar=False)
            return vectors[: len(texts)]
        size, length = (len(tokens), len(tokens[0])) if self._exact else self._shape(len(tokens[-1]))
        ids_BT = np.full((size, length), self._model.tokenizer.pad_token_id or 0, np.int64)
        mask_BT = np.zeros((size, length), np.int64)
        for row, ids in enumerate(itertools.islice(itertools.cycle(tokens), size)):
            ids_BT[row, : len(ids)] = ids
            mask_BT[row, : len(ids)] = 1
        features: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT}
        if self._types:
            features["token_type_ids"] = np.zeros_like(ids_BT)
        with torch.inference_mode():
            features = {name: torch.from_numpy(array).to(self.device) for name, array in features.items()}
            vectors_BD = self._model({**features, "modality": "text"})["sentence_embedding"]
            found: Floats = vectors_BD[: len(texts)].float().cpu().numpy()
        return found


def _load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    try:
        return SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # any of a dozen libraries may be the one that cannot read its part
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{folder}: not a readable model ({type(error).__name__}: {line})") from None


def _resolve(precision: Precision, device: str, model: Any) -> Precision:
    """What `auto` means: fp32 on a CPU; on a GPU the half precision that the weights were stored in, else fp16."""
    import torch

    if precision != "auto":
        return precision
    if device == "cpu":
        return "fp32"
    return "bf16" if next(model.parameters()).dtype == torch.bfloat16 else "fp16"


def _lean_tokenizer(model: Any) -> Any:
    """The bare `tokenizers.Tokenizer`; None where `encode` does more than tokenise and pass the modules forward."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    kinds = [type(module).__name__ for module in model]
    fast = isinstance(model.tokenizer, PreTrainedTokenizerFast)
    if not fast or kinds[0] != "Transformer" or set(kinds[1:]) - PLAIN_MODULES or model.default_prompt_name:
        return None
    model.preprocess(["a"])  # sets the truncation of its own tokenizer
    tokenizer = Tokenizer.from_str(model.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    return tokenizer


def _pack_linears(model: Any) -> None:
    """Put every linear layer's weights into oneDNN's order, which is twice as fast as the BLAS on some processors."""
    from torch import nn

    packed = _packed_linear()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, packed(child))


def _packed_linear() -> Any:
    import torch
    from torch import nn

    class PackedLinear(nn.Module):
        """A linear layer for inference in fp32; few rows are filled up to MIN_ROWS."""

        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
            self.weight = linear.weight  # some models look at it
            self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().float())

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            rows_RK = states.reshape(-1, self.in_features)
            count = len(rows_RK)
            if count < MIN_ROWS:
                rows_RK = torch.cat([rows_RK, rows_RK[:1].expand(MIN_ROWS - count, -1)])
            out_RN = torch.ops.mkldnn._linear_pointwise(rows_RK, self._packed, self.bias, "none", [], "")
            shaped: torch.Tensor = out_RN[:count].reshape(*states.shape[:-1], self.out_features)
            return shaped

    return PackedLinear
