"""What a training will take, reckoned before it begins: memory of a process, operations, hours and money.

Everything here is arithmetic on sizes that are known beforehand; what it is worth is tested against real runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.core.errors import UsageError
from components.training.fused import block_rows
from components.training.lanes import LANES
from components.training.monitor import peak_flops

FP32 = 4


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: all parameters, those that are trained, dimensions D; of a transformer its layers too."""

    parameters: int
    trained: int
    dims: int
    layers: int = 0
    hidden: int = 0
    intermediate: int = 0


@dataclass(frozen=True)
class Step:
    """The largest step: texts that are embedded, their tokens, rows of its largest score matrix and its columns."""

    texts: int
    tokens: int
    queries: int
    candidates: int


def activation_bytes(shape: Shape, half: bool, recomputed: bool) -> int:
    """Bytes that a transformer keeps of a token from its forward to its backward pass; attention keeps no matrix.

    After Korthikanti et al. 2022, equation 1, without the attention scores: of each layer the inputs of its products,
    of attention, of the activation and of the two normalisations; in 16 bits 18 a unit of width and 4 a unit of the
    feed-forward part, in 32 bits twice that. ``recomputed`` keeps the inputs of the layers and one layer's inside.
    """
    width = 2 if half else 4
    layer = width * (8 * shape.hidden + 2 * shape.intermediate) + (2 * shape.hidden if half else 4 * shape.hidden)
    if not recomputed:
        return shape.layers * layer
    return shape.layers * width * shape.hidden + layer


def memory(
    shape: Shape, step: Step, chunk_tokens: int, dims: int, half: bool, recomputed: bool, zero: int, processes: int
) -> dict[str, int]:
    """Bytes of one process by what they hold, at the largest ``step``; ``dims``: number of Matryoshka dimensions.

    ZeRO shares among the processes AdamW's moments (from stage 1 on), gradients (2) and weights (3).
    """

    def shared(count: int, stage: int) -> int:
        return -(-count // processes) if zero >= stage else count

    chunk = min(chunk_tokens, -(-step.tokens // processes))
    own_rows = min(block_rows(step.candidates), step.queries)
    parts = {
        "weights": FP32 * (shared(shape.trained, 3) + shape.parameters - shape.trained),
        "gradients": FP32 * shared(shape.trained, 2),
        "moments of AdamW": 2 * FP32 * shared(shape.trained, 1),
        "activations": chunk * activation_bytes(shape, half, recomputed) if shape.layers else 0,
        "embeddings and their gradients": 3 * FP32 * step.texts * shape.dims,
        "scores and passage gradients": FP32
        * LANES
        * ((dims + 2) * own_rows * step.candidates + step.candidates * shape.dims),
    }
    return {name: count for name, count in parts.items() if count}


@dataclass(frozen=True)
class Cost:
    """What a training costs on a GPU: GPU-hours, and their price in the currency that the price was given in."""

    gpu_hours: float
    money: float


def gpu_cost(operations: float, gpu: str, half: bool, mfu: float, price: float) -> Cost:
    """GPU-hours of ``operations`` at a share ``mfu`` of the GPU's peak. Raises UsageError for an unknown one."""
    peak = peak_flops(gpu, half)
    if peak is None:
        raise UsageError(f"run.cost.gpu: {gpu!r} is not known; allowed: names such as H100, A100, L4 or RTX 4090")
    hours = operations / (peak * mfu) / 3600
    return Cost(hours, hours * price)


def byte_words(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for size, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} bytes"


def memory_lines(parts: Mapping[str, int]) -> list[str]:
    """Each part and their sum."""
    width = max(map(len, parts))
    lines = [f"{name:<{width}}  {byte_words(count):>10}" for name, count in parts.items()]
    return [*lines, f"{'in all':<{width}}  {byte_words(sum(parts.values())):>10}"]
