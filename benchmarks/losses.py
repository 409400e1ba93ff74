"""The fused Matryoshka loss beside sentence-transformers' losses on the same embeddings: time and memory of a step.

    python benchmarks/losses.py [--device cuda] [--batch 16384]

Both sides get embeddings and answer with loss and gradient; the model is in neither. sentence-transformers is
MultipleNegativesRankingLoss inside MatryoshkaLoss, under autocast where the products are in bf16.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import interleaved

if TYPE_CHECKING:
    from torch import Tensor

DIMS = (32, 64, 128, 256, 512, 1024)
BATCH = {"cpu": 2048, "cuda": 16384}
SCALE = 20.0
FUSED, PEER = "fused", "sentence-transformers"

Step = Callable[[], float]


def matryoshka(
    device: str = "cpu", batch: int | None = None, bf16: bool = False, threads: int = 2, repeats: int = 7
) -> dict[str, Any]:
    """Seconds and peak MiB of loss and gradient of ``batch`` pairs both ways, their ratios, and how the losses differ.

    Peak memory is what a step adds to the embeddings, each side's in a fresh process on a CPU.
    """
    size = batch or BATCH[device]
    seconds = interleaved(
        {name: _timed(step, device) for name, step in _steps(device, size, bf16, threads).items()}, repeats
    )
    peak = {name: _peak(name, device, size, bf16, threads) for name in (FUSED, PEER)}
    losses = {name: step() for name, step in _steps(device, size, bf16, threads).items()}
    return {
        "device": device,
        "batch": size,
        "dims": list(DIMS),
        "operands": "bf16" if bf16 else "fp32",
        "seconds": seconds,
        "faster": seconds[PEER] / seconds[FUSED],
        "peak_mib": peak,
        "memory": peak[FUSED] / peak[PEER],
        "relative_difference": abs(losses[FUSED] / losses[PEER] - 1),
    }


def _steps(device: str, batch: int, bf16: bool, threads: int) -> dict[str, Step]:
    """Loss and gradient of the same embeddings both ways."""
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    from components.training.fused import fused_info_nce
    from components.training.lanes import use_threads

    query_BD, passage_BD = embeddings(batch, device)
    weights = [1.0] * len(DIMS)
    inner = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=SCALE)  # type: ignore[arg-type]

    def fused() -> float:
        use_threads(threads)
        return fused_info_nce(query_BD, passage_BD, SCALE, DIMS, weights, bf16=bf16).loss

    def peer() -> float:
        torch.set_num_threads(threads)
        parts = [part.detach().requires_grad_() for part in (query_BD, passage_BD)]
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            total = torch.zeros((), device=device)
            for dim in reversed(DIMS):
                total = total + inner.compute_loss_from_embeddings(
                    [torch.nn.functional.normalize(part[:, :dim], dim=-1) for part in parts], torch.empty(0)
                )
        total.backward()  # type: ignore[no-untyped-call]
        return total.item()

    return {FUSED: fused, PEER: peer}


def embeddings(batch: int, device: str) -> tuple[Tensor, Tensor]:
    """Queries and passages [B, D] of which those of a pair are somewhat alike."""
    import torch

    torch.manual_seed(0)
    query_BD = torch.randn(batch, DIMS[-1], device=device)
    return query_BD, query_BD + 2 * torch.randn(batch, DIMS[-1], device=device)


def _timed(step: Step, device: str) -> Callable[[], float]:
    import torch

    step()  # warm up

    def seconds() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return seconds


def _peak(name: str, device: str, batch: int, bf16: bool, threads: int) -> float:
    """MiB that a step needs at most beside the embeddings."""
    if device == "cuda":
        import torch

        step = _steps(device, batch, bf16, threads)[name]
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_peak_in_process, (name, batch, bf16, threads))


def _peak_in_process(name: str, batch: int, bf16: bool, threads: int) -> float:
    _steps("cpu", 64, bf16, threads)[name]()  # libraries are loaded and started
    step = _steps("cpu", batch, bf16, threads)[name]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident_peak()
    step()
    return (_resident_peak() - before) / 1024


def _resident_peak() -> int:
    """KiB of the largest resident set so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    for bf16 in (False, True):
        print(json.dumps(matryoshka(asked.device, asked.batch, bf16, asked.threads, asked.repeats), indent=1))


if __name__ == "__main__":
    main()
