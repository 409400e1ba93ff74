"""What dynamic mining costs a training step, besides mining again: its share of the loop's CPU time.

The loop runs as it is, on real pairs; what it calls for the sake of dynamic mining (finding each query's negatives in
the batch, taking their cosines out of the loss, remembering them, checking and replacing) is timed on the loop's own
thread. The copy of the weights that mining again works on counts as mining.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import static
from benchmarks.measure import Result, Table, progress, versions

BATCH, DIMS, PAIRS, EPOCHS, NEGATIVES = 1024, (64, 128, 256, 512, 768, 1024), 12_288, 21, 2
CHECK_EVERY, AIM = 100, 0.01


@dataclass(frozen=True)
class Shape:
    """How large the task is; the tests take a small one."""

    batch: int = BATCH
    pairs: int = PAIRS
    dims: tuple[int, ...] = DIMS
    epochs: int = EPOCHS
    check_every: int = CHECK_EVERY


class Meter:
    """CPU seconds that this thread spends in the functions that it was laid around."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inside = False
        self._aside = 0.0

    def aside(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """``work``, whose time is not counted where it is called by what is metered."""

        def unmetered(*arguments: Any, **named: Any) -> Any:
            start = time.thread_time()
            try:
                return work(*arguments, **named)
            finally:
                self._aside += time.thread_time() - start

        return unmetered

    def around(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """``work``, metered; what it calls in turn counts once."""

        def metered(*arguments: Any, **named: Any) -> Any:
            if self._inside:
                return work(*arguments, **named)
            self._inside, self._aside, start = True, 0.0, time.thread_time()
            try:
                return work(*arguments, **named)
            finally:
                self._inside = False
                self.spent[name] = self.spent.get(name, 0.0) + time.thread_time() - start - self._aside

        return metered


def run() -> Result:
    return measure(Shape())


def measure(shape: Shape) -> Result:
    """Train with dynamic mining and set what it took against the whole."""
    from components.training import objectives
    from components.training.dynamic import HardNegatives
    from components.training.fused import Watch
    from components.training.trainee import StaticTrainee

    meter = Meter()
    progress("overhead: training with dynamic mining")
    laid = [(objectives, "places")]
    laid += [(Watch, name) for name in ("__init__", "see", "finish")]
    laid += [(HardNegatives, name) for name in ("observe", "finish_step")]
    laid += [(StaticTrainee, "frozen")]
    before = [getattr(place, name) for place, name in laid]
    try:
        for (place, name), work in zip(laid, before, strict=True):
            setattr(place, name, meter.aside(work) if name == "frozen" else meter.around(name, work))
        seconds, steps, figures = _train(shape)
    finally:
        for (place, name), work in zip(laid, before, strict=True):
            setattr(place, name, work)
    share = sum(meter.spent.values()) / seconds
    rows = [[name, spent / steps * 1000, spent / seconds] for name, spent in meter.spent.items()]
    rows.append(["all of it", sum(meter.spent.values()) / steps * 1000, share])
    rows.append(["a step", seconds / steps * 1000, 1.0])
    note = (
        f"{steps} steps of {shape.batch:,} pairs, {NEGATIVES} mined negatives a query, {shape.dims[-1]} dimensions, "
        f"one core; a check every {shape.check_every} steps, {figures['replaced_in_all']:,.0f} replacements, "
        f"{figures['minings']:.0f} times mined again (in a thread of its own, which is not counted). Aim: ≤ {AIM:.0%}."
    )
    table = Table("Dynamic mining in a step", ("", "CPU ms a step", "share of the step"), rows, note)
    return Result("overhead", [table], {"share": share, "spent": meter.spent, "steps": steps}, versions(("torch",)))


def _train(shape: Shape) -> tuple[float, int, dict[str, float]]:
    """CPU seconds of the loop's thread, its steps, and what the miner tells of itself."""
    from components.training.checkpoint import Cadence, Checkpoints
    from components.training.dynamic import HardNegatives, Pool, Rule, vectors_of
    from components.training.engine import Optimiser
    from components.training.lanes import use_threads
    from components.training.loop import Phase, Run, train
    from components.training.mining import Window
    from components.training.objectives import Matryoshka, Retrieval
    from components.training.tokens import SidedTokens, build_store
    from components.training.trainee import StaticTrainee

    use_threads(1)
    reader, pairs = static.tokenizer(), static.pairs(shape.pairs)
    with tempfile.TemporaryDirectory() as scratch:
        everything = [text for pair in pairs for text in pair]
        store = build_store(Path(scratch) / "tokens", reader, everything, "benchmark")
        tokens = SidedTokens.same(store)
        query, passage = (store.rows_of([pair[side] for pair in pairs]) for side in (0, 1))
        trainee = StaticTrainee(static.table(reader.get_vocab_size(), shape.dims[-1]))
        pool = Pool(query, passage, np.unique(passage), Window(2, 100, 0.95), min(256, shape.dims[-1]))
        negatives = HardNegatives(pool, NEGATIVES, Rule(check_every=shape.check_every))
        negatives.begin(vectors_of(trainee.vectors, tokens))
        once = np.ones(len(query), dtype=np.int64)
        matryoshka = Matryoshka.of(shape.dims, "mean")
        objective = Retrieval(query, passage, negatives, once, shape.batch, 20.0, matryoshka, False)
        phase = Phase("overhead", [objective], shape.epochs, Optimiser(0.02, 0.1), 1)
        start = time.thread_time()
        log = train(trainee, tokens, [phase], Run(Checkpoints(Path(scratch) / "checkpoints", "benchmark"), Cadence()))
        return time.thread_time() - start, log.steps, negatives.figures()
