"""The training engine on a GPU: `python benchmarks/gpu.py [PART…]`, one file, nothing to prepare.

Parts: `bert` (BERT-large from scratch weights, packed, beside sentence-transformers padded and with flash attention),
`static` (a static table), `loss` (the fused Matryoshka loss at batch 16,384). Without a GPU it says so and ends with
exit code 2; `--device cpu --tiny` runs all of it on small sizes, keeps nothing, and proves that the script works.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.NAME

from benchmarks import packing, static  # noqa: E402
from benchmarks.measure import Result, Table, progress, versions  # noqa: E402

OURS, SDPA, FLASH = "embedmill, varlen", "sentence-transformers, SDPA padded", "sentence-transformers, flash attention"
PEER = "sentence-transformers"
SCALE = 20.0


@dataclass(frozen=True)
class Sizes:
    """How large the tasks are. ``pairs`` are tried in order: a contestant gets the first batch that fits its memory."""

    bert: Mapping[str, int]
    pairs: tuple[int, ...]
    static: static.Shape
    loss_batch: int
    loss_dims: tuple[int, ...]
    repeats: int


REAL = Sizes(
    {"layers": 24, "hidden": 1024, "heads": 16, "intermediate": 4096},
    (512, 256, 128, 64),
    static.Shape(),
    16_384,
    static.DIMS,
    10,
)
TINY = Sizes(
    {"layers": 2, "hidden": 32, "heads": 2, "intermediate": 64},
    (4,),
    static.Shape(batch=8, batches=1, dims=(8, 16)),
    32,
    (8, 16),
    1,
)


def bert(device: str, sizes: Sizes) -> tuple[Table, dict[str, Any]]:
    """Tokens a second, share of the hardware's peak, memory."""
    import torch

    from components.training.model import save_model
    from components.training.monitor import peak_flops
    from components.training.transformer import Passes

    peak = peak_flops(torch.cuda.get_device_name(), half=True) if device == "cuda" else None
    values: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = packing.small_bert(**sizes.bert)
        save_model(model, folder, {})
        model.encoder.to(device)
        flops = model.trainee(Passes()).flops
        makers = {
            OURS: lambda pairs: _ours(folder, pairs, device),
            SDPA: lambda pairs: _theirs(folder, pairs, device, "sdpa"),
            FLASH: lambda pairs: _theirs(folder, pairs, device, "flash_attention_2"),
        }
        del model
        for name, make in makers.items():
            progress(f"gpu: {name}")
            values[name] = largest(make, device, sizes)
    rows = []
    for name, found in values.items():
        if "seconds" not in found:
            rows.append([name, None, None, None, None, None, found["why"]])
            continue
        length_T = np.array([len(text) for side in packing.make_pairs(found["pairs"], 0) for text in side])
        found["tokens_per_second"] = float(length_T.sum() / found["seconds"])
        found["mfu"] = None if peak is None else flops(length_T) / found["seconds"] / peak
        ratio = values[OURS]["tokens_per_second"] / found["tokens_per_second"]
        memory = None if found["bytes"] is None else found["bytes"] / 2**30
        rows.append([name, found["pairs"], found["tokens_per_second"], found["mfu"], ratio, memory, ""])
    header = ("", "pairs a step", "tokens / s", "MFU", "embedmill is faster ×", "peak GiB", "")
    note = (
        "Random weights, bf16 autocast over fp32 weights, InfoNCE, fused AdamW, dropout 0.1, skewed lengths (see "
        "benchmarks/packing.py); tokens are those of the texts, padding is none. Each has the largest batch of "
        f"{', '.join(map(str, sizes.pairs))} pairs that fits. Aims: ≥ 2× padded SDPA, ≥ 1.15× flash, MFU ≥ 45%."
    )
    title = f"BERT {sizes.bert['layers']} × {sizes.bert['hidden']}"
    return Table(title, header, rows, note), values


def largest(make: Callable[[int], Callable[[], None]], device: str, sizes: Sizes) -> dict[str, Any]:
    """Median seconds and peak bytes of a step with the largest batch that fits; or why there is none."""
    import torch

    why = ""
    for pairs in sizes.pairs:
        step = None
        try:
            step = make(pairs)
            return {"pairs": pairs, **_measured({"it": step}, device, sizes.repeats)["it"]}
        except torch.OutOfMemoryError:
            why = f"{pairs} pairs do not fit"
        except (ImportError, ValueError, RuntimeError) as error:  # no flash attention here, or not for this encoder
            why = str(error).splitlines()[0][:80]
            break
        finally:
            del step
            _forget(device)
    return {"why": why}


def _ours(folder: str, pairs: int, device: str) -> Callable[[], None]:
    import torch

    from components.training.fused import fused_info_nce
    from components.training.model import load_model
    from components.training.transformer import Passes, TransformerModel

    model, _ = load_model(folder)
    assert isinstance(model, TransformerModel)
    model.encoder.to(device)
    trainee = model.trainee(Passes(chunk_tokens=1 << 30, precision="bf16"))
    adamw = torch.optim.AdamW(trainee.parameters.values(), lr=2e-5, fused=True)
    bags = packing.to_bags([text for side in packing.make_pairs(pairs, 0) for text in side])
    seeds = iter(range(10**9))

    def step() -> None:
        query_BD, passage_BD = trainee.embed(bags, next(seeds)).chunk(2)
        found = fused_info_nce(query_BD, passage_BD, SCALE, [trainee.dims], [1.0], bf16=True)
        trainee.backward(torch.cat([found.query_grad, found.passage_grad]))
        adamw.step()

    return step


def _theirs(folder: str, pairs: int, device: str, attention: str) -> Callable[[], None]:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    if attention.startswith("flash") and device != "cuda":
        raise ValueError("flash attention needs a GPU")
    model = SentenceTransformer(folder, device=device, model_kwargs={"attn_implementation": attention}).train()
    loss = MultipleNegativesRankingLoss(model, scale=SCALE)
    adamw = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    columns = []
    for side in packing.make_pairs(pairs, 0):
        padded = model.tokenizer.pad({"input_ids": [text.tolist() for text in side]}, return_tensors="pt")
        columns.append({**{name: tensor.to(device) for name, tensor in padded.items()}, "modality": "text"})

    def step() -> None:
        adamw.zero_grad()
        with torch.autocast(device, torch.bfloat16):
            value = loss([dict(column) for column in columns], torch.zeros(0))
        value.backward()
        adamw.step()

    return step


def static_table(device: str, sizes: Sizes) -> tuple[Table, dict[str, Any]]:
    """Milliseconds of a step of static training, tokens at hand."""
    pairs = static.pairs(sizes.static.batch)
    rows, values = [], {}
    for bf16 in (False, True):
        progress(f"gpu: static training, {'bf16' if bf16 else 'fp32'}")
        steps = {}
        for name, kind in ((OURS, static.Ours), (PEER, static.Peer)):
            contestant = kind(sizes.static, bf16, device)
            features = contestant.read(pairs)
            steps[name] = lambda contestant=contestant, features=features: contestant.step(features)
        found = _measured(steps, device, sizes.repeats)
        ratio = found[PEER]["seconds"] / found[OURS]["seconds"]
        precision = "bf16" if bf16 else "fp32"
        values[precision] = {"ratio": ratio, **{name: each["seconds"] for name, each in found.items()}}
        rows.append([precision, *(1000 * found[name]["seconds"] for name in (OURS, PEER)), ratio])
        del steps
        _forget(device)
    shape = sizes.static
    note = f"{shape.batch:,} pairs, dimensions {', '.join(map(str, shape.dims))}, exact AdamW. Aim: ≥ 5×."
    header = ("", "embedmill, ms", "sentence-transformers, ms", "faster ×")
    return Table("Static training", header, rows, note), values


def loss(device: str, sizes: Sizes) -> tuple[Table, dict[str, Any]]:
    """Time and memory of the Matryoshka loss with its gradient, on embeddings that are there."""
    import torch
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from torch.nn.functional import normalize

    from components.training.fused import fused_info_nce

    query_BD, passage_BD = torch.randn(2, sizes.loss_batch, sizes.loss_dims[-1], device=device)
    inner = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=SCALE)

    def ours() -> None:
        fused_info_nce(query_BD, passage_BD, SCALE, sizes.loss_dims, [1.0] * len(sizes.loss_dims), bf16=True)

    def theirs() -> None:
        sides = [side.detach().requires_grad_() for side in (query_BD, passage_BD)]
        with torch.autocast(device, torch.bfloat16):
            value = torch.zeros((), device=device)
            for dim in sizes.loss_dims:
                cut = [normalize(side[:, :dim], dim=1) for side in sides]
                value = value + inner.compute_loss_from_embeddings(cut, torch.zeros(0))
        value.backward()

    progress("gpu: the fused loss")
    values, rows = {}, []
    for name, step in ((OURS, ours), (PEER, theirs)):
        try:
            values[name] = _measured({name: step}, device, sizes.repeats)[name]
        except torch.OutOfMemoryError:
            values[name] = {"seconds": None, "bytes": None}
            _forget(device)
        memory = None if values[name]["bytes"] is None else values[name]["bytes"] / 2**30
        seconds = values[name]["seconds"]
        times = None if seconds is None else seconds / values[OURS]["seconds"]
        rows.append([name, None if seconds is None else 1000 * seconds, times, memory])
    note = (
        f"{sizes.loss_batch:,} queries and passages, dimensions {', '.join(map(str, sizes.loss_dims))}, products in "
        "bf16; memory with the embeddings; no figure: it did not fit. Aims: ≥ 3× faster, ≤ ⅓ of the memory."
    )
    return Table("Matryoshka loss and gradient", ("", "ms", "embedmill = 1", "GiB"), rows, note), values


def _measured(steps: Mapping[str, Callable[[], Any]], device: str, repeats: int) -> dict[str, dict[str, Any]]:
    """Median seconds of each, in turns after a warm-up, and the peak bytes in use (None on a CPU)."""
    import torch

    taken: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, int | None] = dict.fromkeys(steps)
    for turn in range(-2, repeats):
        for name, step in steps.items():
            if device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
                peaks[name] = torch.cuda.max_memory_allocated()
            if turn >= 0:
                taken[name].append(time.perf_counter() - start)
    return {name: {"seconds": statistics.median(all_of), "bytes": peaks[name]} for name, all_of in taken.items()}


def _forget(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


PARTS: dict[str, Callable[[str, Sizes], tuple[Table, dict[str, Any]]]] = {
    "bert": bert,
    "static": static_table,
    "loss": loss,
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="The training engine on a GPU.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all without")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script; nothing is kept")
    wanted = parser.parse_args(arguments)
    if unknown := [part for part in wanted.parts if part not in PARTS]:
        parser.error(f"unknown part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    from components.core import environment

    environment.quiet()
    import torch

    if wanted.device == "cuda" and not torch.cuda.is_available():
        print("no GPU that PyTorch can use; `--device cpu --tiny` tries the script without one", file=sys.stderr)
        return 2
    sizes = TINY if wanted.tiny else REAL
    tables, values = zip(*(PARTS[part](wanted.device, sizes) for part in wanted.parts or PARTS), strict=True)
    name = torch.cuda.get_device_name() if wanted.device == "cuda" else "CPU"
    found = dict(zip(wanted.parts or PARTS, values, strict=True)) | {"device": name}
    result = Result("gpu", tables, found, versions(("torch", "transformers", PEER)), "gpu.py")
    tables[0].title += f", {name}"
    if not wanted.tiny:
        result.save()
    print(f"\n{result.markdown()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
