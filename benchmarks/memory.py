"""Peak memory, each case in a process of its own: GradCache at two batch sizes, a static model of 250,000 tokens."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import packing
from benchmarks.measure import Result, Table, progress, versions

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY, DIMS, STEPS, CHECKPOINT_STEPS, BATCH = 250_000, (64, 128, 256, 512, 768, 1024), 12, 4, 2048
GRADCACHE_AIM, STATIC_AIM = 1.2, 8 * 2**30


def run() -> Result:
    """Both figures, in one part."""
    progress("memory: GradCache")
    gradcache = packing.memory()
    peaks = {int(batch): peak for batch, peak in gradcache.values["bytes"].items()}
    progress(f"memory: a table of {VOCABULARY:,} tokens")
    static = static_peak(VOCABULARY, DIMS, STEPS)
    table = Table(
        "Peak memory of static training",
        ("tokens × dimensions", "peak GiB", "of which the table, its gradient and moments", "aim"),
        [[f"{VOCABULARY:,} × {DIMS[-1]}", static / 2**30, 4 * VOCABULARY * DIMS[-1] * 4 / 2**30, "≤ 8 GiB"]],
        f"The whole process, fp32, {STEPS} steps of {BATCH:,} pairs at six dimensions, a checkpoint every "
        f"{CHECKPOINT_STEPS} steps, written while training goes on.",
    )
    ratio = peaks[max(peaks)] / peaks[min(peaks)]
    values = {"gradcache": peaks, "gradcache_ratio": ratio, "static_bytes": static}
    return Result("memory", [*gradcache.tables, table], values, versions(("torch", "transformers")))


def static_peak(vocabulary: int, dims: tuple[int, ...], steps: int) -> int:
    """Peak resident bytes of a process that trains such a table for so many steps."""
    code = f"from benchmarks.memory import train_static; train_static({vocabulary}, {dims}, {steps})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def train_static(vocabulary: int, dims: tuple[int, ...], steps: int) -> None:
    """Train a table from random tokens by the loop, with checkpoints; print this process's peak resident bytes."""
    import resource

    import torch

    from components.training.checkpoint import Cadence, Checkpoints
    from components.training.engine import Optimiser
    from components.training.lanes import use_threads
    from components.training.loop import Phase, Run, train
    from components.training.objectives import Matryoshka, Retrieval
    from components.training.tokens import SidedTokens, TokenStore
    from components.training.trainee import StaticTrainee

    use_threads(2)
    rng = np.random.default_rng(1)
    count = BATCH * steps
    lengths = rng.integers(5, 60, 2 * count)
    tokens = np.minimum(rng.zipf(1.2, lengths.sum()) - 1, vocabulary - 1).astype(np.int32)
    offsets = np.concatenate([[0], lengths.cumsum()])
    store = SidedTokens.same(TokenStore(tokens, offsets, np.arange(2 * count, dtype=np.uint64)))
    rows, nothing = np.arange(2 * count, dtype=np.int64), np.zeros((count, 0), dtype=np.int64)
    once = np.ones(count, dtype=np.int64)
    objective = Retrieval(rows[:count], rows[count:], nothing, once, BATCH, 20.0, Matryoshka.of(dims, "mean"), False)
    trainee = StaticTrainee(torch.randn(vocabulary, dims[-1]) * 0.05)
    phase = Phase("memory", [objective], 1, Optimiser(0.02, 0.1), 1)
    with tempfile.TemporaryDirectory(dir=ROOT) as scratch:
        train(trainee, store, [phase], Run(Checkpoints(Path(scratch), "benchmark"), Cadence(CHECKPOINT_STEPS)))
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
