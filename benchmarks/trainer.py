"""FlagEmbedding inside its own environment: `python trainer.py TASK FILE OPTIONS`, one measurement a line of stdin.

FILE is an .npz; OPTIONS is JSON. Each line answered on stdout is JSON: CPU seconds of the work alone,
and what came out. This file imports nothing of the project.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from FlagEmbedding.finetune.embedder.encoder_only.base.modeling import BiEncoderOnlyEmbedderModel

Run = Callable[[], Any]


def main() -> None:
    # libraries print to stdout: answers keep it for themselves
    answers, sys.stdout = sys.stdout, sys.stderr
    task, path, options = sys.argv[1:4]
    torch.set_num_threads(1)
    run = TASKS[task](Path(path), **json.loads(options))
    for _ in sys.stdin:
        start = time.process_time()
        value = run()
        print(json.dumps({"cpu": time.process_time() - start, "value": value}), file=answers, flush=True)


class Rows(torch.nn.Module):
    """A model whose texts are rows of a table: the loss alone, without an encoder."""

    def __init__(self, rows_ND: np.ndarray) -> None:
        super().__init__()
        self.config = SimpleNamespace(use_cache=False)
        self.rows = torch.nn.Embedding.from_pretrained(torch.from_numpy(rows_ND), freeze=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, return_dict: bool) -> Any:
        return SimpleNamespace(last_hidden_state=self.rows(input_ids))


def loss(path: Path, queries: int, temperature: float) -> Run:
    """Loss and gradient of embeddings, queries first, then passages in groups; the gradient goes beside the file."""
    rows_ND = np.load(path)["rows"]
    model = _embedder(Rows(rows_ND), temperature).train()
    ids = torch.arange(len(rows_ND))[:, None]

    def run() -> float:
        model.zero_grad()
        sides = [
            {"input_ids": part, "attention_mask": torch.ones_like(part)} for part in (ids[:queries], ids[queries:])
        ]
        value = model(*sides).loss
        value.backward()
        np.save(path.with_suffix(".gradient.npy"), model.model.rows.weight.grad.numpy())
        return float(value.detach())

    return run


def steps(path: Path, model: str, temperature: float) -> Run:
    """Training steps with AdamW on batches of token ids, padded to multiples of 8 as its collator does."""
    from transformers import AutoModel

    embedder = _embedder(AutoModel.from_pretrained(model), temperature).train()
    adamw = torch.optim.AdamW(embedder.parameters(), lr=2e-5, fused=True)
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    batches = [
        [{"input_ids": arrays[f"{side}{number}"], "attention_mask": arrays[f"{side}{number}_mask"]} for side in "qp"]
        for number in range(len(arrays) // 4)
    ]

    def run() -> None:
        for batch in batches:
            adamw.zero_grad()
            embedder(*batch).loss.backward()
            adamw.step()

    return run


def _embedder(model: Any, temperature: float) -> BiEncoderOnlyEmbedderModel:
    return BiEncoderOnlyEmbedderModel(
        model, temperature=temperature, sentence_pooling_method="cls", normalize_embeddings=True
    )


TASKS: dict[str, Callable[..., Run]] = {"loss": loss, "steps": steps}

if __name__ == "__main__":
    main()
