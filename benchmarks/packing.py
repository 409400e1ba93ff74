"""Training a BERT on a CPU: our step beside sentence-transformers', padded and on batches sorted by length; GradCache.

A step is forward pass, MultipleNegativesRankingLoss, backward pass and fused AdamW, from token ids. Every contestant
trains its own copy of one model on batches of the same pairs: drawn at random, or the pairs in order of length, cut
into batches. As long batches have more work, what counts is tokens by time, without those that only pad.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from components.training.transformer import TransformerModel

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.NAME

from benchmarks import peers, processes  # noqa: E402
from benchmarks.measure import Result, Table, cpu_seconds, interleaved, versions  # noqa: E402
from components.training.tokens import Bags  # noqa: E402

VOCABULARY = 30_522
BATCH, BATCHES, REPEATS = 32, 4, 5
PAIRS = 1024  # the batches of a turn are spread over them
# Tokens of a text, special ones included: lognormal, as lengths of web passages are, cut at LONGEST.
QUERY, PASSAGE, LONGEST = (2.4, 0.4), (3.7, 0.9), 256
SCALE = 20.0
OURS, PADDED, SORTED = "embedmill, packed", "sentence-transformers, padded", "sentence-transformers, sorted by length"
FLAG = "FlagEmbedding, padded"
MEMORY_BATCHES = (1024, 16_384)

Pairs = tuple[list[np.ndarray], list[np.ndarray]]


def run() -> Result:
    """Tokens that each contestant trains on in a second, and how much faster ours is."""
    pairs = make_pairs(PAIRS, seed=0)
    parts = {OURS: batches(pairs), PADDED: batches(pairs), SORTED: batches(by_length(pairs)), FLAG: batches(pairs)}
    model = small_bert(layers=4, hidden=312, heads=12, intermediate=1200)
    with tempfile.TemporaryDirectory() as folder:
        from components.training.model import save_model

        save_model(model, folder, {})
        batch = _flag_batches(Path(folder) / "batches.npz", parts[FLAG])
        with peers.Peer("steps", batch, peers.TRAINING, model=folder, temperature=1 / SCALE) as flag:
            contestants = {
                OURS: _ours(model, parts[OURS]),
                PADDED: _theirs(folder, parts[PADDED]),
                SORTED: _theirs(folder, parts[SORTED]),
                FLAG: flag.measure,
            }
            interleaved(contestants, 1)  # warm up
            seconds = interleaved(contestants, REPEATS)
    tokens = {name: sum(len(text) for pair in part for side in pair for text in side) for name, part in parts.items()}
    rates = {name: tokens[name] / seconds[name] for name in parts}
    lengths = np.array([len(text) for side in pairs for text in side])
    rows = [[name, seconds[name] / BATCHES, rates[name], rates[OURS] / rates[name]] for name in parts]
    table = Table(
        f"BERT 4 × 312 on pairs of {np.median(lengths):.0f} tokens in the middle, {lengths.mean():.0f} on average, "
        f"{lengths.max()} at most",
        ("", "CPU s / step", "tokens / CPU-s", "embedmill is faster ×"),
        rows,
        f"{BATCH} pairs a step, fp32, dropout 0.1, AdamW; median of {REPEATS} interleaved turns of {BATCHES} steps. "
        f"Sorted: {PAIRS:,} pairs in order of the passage's length, of whose batches each turn takes every "
        f"{PAIRS // BATCH // BATCHES}th. FlagEmbedding, in its own process, pools the first token, the others all.",
    )
    values = {"seconds": {name: 1 / rate for name, rate in rates.items()}}  # a token
    theirs = peers.versions("FlagEmbedding", environment=peers.TRAINING)
    return Result("packing", [table], values, versions(("torch", "transformers", "sentence-transformers")) | theirs)


def memory() -> Result:
    """Peak resident memory of one GradCache step at each batch size, each in a process of its own."""
    peaks = {batch: peak_bytes(batch) for batch in MEMORY_BATCHES}
    first = peaks[MEMORY_BATCHES[0]]
    rows = [[f"{batch:,}", peak / 2**20, peak / first] for batch, peak in peaks.items()]
    table = Table(
        "Peak memory of a GradCache step, short texts, small BERT",
        ("pairs a step", "MiB", "× of the first"),
        rows,
        "The whole process, with PyTorch itself; chunks of 4,096 tokens.",
    )
    values = {"bytes": {str(batch): peak for batch, peak in peaks.items()}}
    return Result("gradcache", [table], values, versions(("torch", "transformers")))


def peak_bytes(batch: int) -> int:
    """Peak resident bytes of a process that trains one step of so many pairs."""
    code = f"from benchmarks.packing import gradcache_step; gradcache_step({batch})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1])


def gradcache_step(batch: int) -> None:
    """Train one step of ``batch`` short pairs in chunks of 4,096 tokens; print this process's peak resident bytes."""
    import torch

    from components.training.fused import fused_info_nce
    from components.training.transformer import Passes

    rng = np.random.default_rng(0)
    model = small_bert(layers=2, hidden=64, heads=2, intermediate=128)
    trainee = model.trainee(Passes(chunk_tokens=4096))
    adamw = torch.optim.AdamW(trainee.parameters.values(), lr=1e-4, fused=True)
    bags = to_bags([rng.integers(5, VOCABULARY, rng.integers(4, 12)) for _ in range(2 * batch)])

    def gradient(embedding_TD: Tensor) -> Tensor:
        found = fused_info_nce(embedding_TD[:batch], embedding_TD[batch:], SCALE, [trainee.dims], [1.0])
        return torch.cat([found.query_grad, found.passage_grad])

    # as in the loop, nothing but the gradient of the embeddings outlives the loss
    trainee.backward(gradient(trainee.embed(bags, 0)))
    adamw.step()
    print(processes.usage(os.getpid()).peak)  # not getrusage's, which begins with the parent's


def small_bert(**sizes: int) -> TransformerModel:
    """A BERT with random weights and a vocabulary of the usual size."""
    from tokenizers import Tokenizer, models

    from components.training.transformer import new_transformer

    words = {f"w{row}": row for row in range(VOCABULARY - 5)}
    return new_transformer(Tokenizer(models.WordLevel(words, unk_token="[UNK]")), seed=0, **sizes)


def make_pairs(count: int, seed: int) -> Pairs:
    """Token ids of so many queries and passages, with skewed lengths."""
    rng = np.random.default_rng(seed)

    def texts(mean: float, sigma: float) -> list[np.ndarray]:
        lengths = np.clip(np.exp(rng.normal(mean, sigma, count)).astype(int), 4, LONGEST)
        return [rng.integers(0, VOCABULARY - 5, length) for length in lengths]

    return texts(*QUERY), texts(*PASSAGE)


def by_length(pairs: Pairs) -> Pairs:
    """The pairs from short to long passages."""
    queries, passages = pairs
    order = sorted(range(len(passages)), key=lambda row: (len(passages[row]), len(queries[row])))
    return [queries[row] for row in order], [passages[row] for row in order]


def batches(pairs: Pairs) -> list[Pairs]:
    """BATCHES batches of BATCH pairs each, from places evenly spread over the pairs."""
    queries, passages = pairs
    stride = len(queries) // BATCHES
    starts = range((stride - BATCH) // 2, len(queries), stride)
    return [(queries[start : start + BATCH], passages[start : start + BATCH]) for start in starts]


def to_bags(texts: Sequence[np.ndarray]) -> Bags:
    """Token ids laid end to end."""
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    return Bags(np.concatenate(texts).astype(np.int32), offsets)


def _ours(model: TransformerModel, parts: list[Pairs]) -> Callable[[], float]:
    import torch

    from components.training.fused import fused_info_nce
    from components.training.transformer import Passes

    trainee = model.trainee(Passes(chunk_tokens=1 << 20))
    adamw = torch.optim.AdamW(trainee.parameters.values(), lr=2e-5, fused=True)
    bags = [to_bags([*queries, *passages]) for queries, passages in parts]

    def turn() -> None:
        for step, part in enumerate(bags):
            embedding_TD = trainee.embed(part, step)
            count = len(part) // 2
            found = fused_info_nce(embedding_TD[:count], embedding_TD[count:], SCALE, [trainee.dims], [1.0])
            trainee.backward(torch.cat([found.query_grad, found.passage_grad]))
            adamw.step()

    return lambda: cpu_seconds(turn)[0]


def _theirs(folder: str, parts: list[Pairs]) -> Callable[[], float]:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    model = SentenceTransformer(folder, device="cpu").train()
    loss = MultipleNegativesRankingLoss(model, scale=SCALE)
    adamw = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    columns = [[_padded(model, side) for side in part] for part in parts]

    def turn() -> None:
        for part in columns:
            adamw.zero_grad()
            loss([dict(column) for column in part], torch.empty(0)).backward()
            adamw.step()

    return lambda: cpu_seconds(turn)[0]


def _flag_batches(path: Path, parts: list[Pairs]) -> Path:
    """Token ids and masks of every batch, both sides padded to a multiple of 8."""
    arrays = {}
    for number, part in enumerate(parts):
        for side, texts in zip("qp", part, strict=True):
            width = -(-max(map(len, texts)) // 8) * 8
            ids = np.zeros((len(texts), width), np.int64)
            for row, text in enumerate(texts):
                ids[row, : len(text)] = text
            lengths = np.array([len(text) for text in texts])
            arrays |= {
                f"{side}{number}": ids,
                f"{side}{number}_mask": (np.arange(width) < lengths[:, None]).astype(int),
            }
    np.savez(path, **arrays)
    return path


def _padded(model: Any, texts: Sequence[np.ndarray]) -> dict[str, Any]:
    """What the model's own tokenizer makes of one column: padded to its longest text, with a mask."""
    padded = model.tokenizer.pad({"input_ids": [text.tolist() for text in texts]}, return_tensors="pt")
    return {**padded, "modality": "text"}


if __name__ == "__main__":
    from components.core import environment

    environment.quiet()
    environment.fix_threads(1)
    for part in (run, memory):
        print(part().markdown(), end="\n\n", flush=True)
