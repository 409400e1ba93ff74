"""What processes do together in test_torchrun.py: `torchrun … together.py FOLDER [STAGE …]` leaves results there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from components.training.checkpoint import Cadence, Checkpoints
from components.training.corpus import ABSENT
from components.training.distributed import World
from components.training.engine import Engine, Optimiser, TorchEngine, open_engine
from components.training.lanes import use_threads
from components.training.loop import MakeEngine, Phase, Run, train
from components.training.objectives import Matryoshka, Retrieval, Similarity
from components.training.plan import Roles, Schedule, check_world
from components.training.tokens import SidedTokens, build_store
from components.training.trainee import StaticTrainee, Trainee
from components.training.transformer import Passes, Precision, new_transformer
from components.training.vocabulary import learn_tokenizer

NOUNS = ("table", "file", "socket", "thread", "matrix", "string", "image", "queue", "token", "shard")
VERBS = ("read", "write", "open", "close", "merge", "split", "parse", "draw")
QUERIES = [f"{verb} a {noun}" for verb in VERBS for noun in NOUNS]
PASSAGES = [
    f"this function will {verb} the given {noun} " + "and return it " * (len(verb + noun) % 5)
    for verb in VERBS
    for noun in NOUNS
]
DIMS = (8, 16)
CBB = Schedule("balanced", roles=Roles(retrieval=3, similarity=1))


def collectives(world: World) -> None:
    """Every operation of a world, on values that all processes know."""
    rng = np.random.default_rng(0)
    lengths_T = rng.integers(0, 50, 101)
    rank_T = world.place(lengths_T)
    own = np.flatnonzero(rank_T == world.rank)
    value_TD = torch.from_numpy(rng.standard_normal((101, 5)).astype(np.float32))
    assert torch.equal(world.gather(value_TD[own], rank_T), value_TD)
    few = np.arange(world.size) % world.size
    assert torch.equal(world.gather(value_TD[world.rank : world.rank + 1], few), value_TD[: world.size])
    everyone = range(world.size)
    assert world.sum_(torch.full((3,), 1.0 + world.rank)).tolist() == [sum(everyone) + world.size] * 3
    parts = [torch.full(shape, float(world.rank)) for shape in ((3, 2), (5,), (), (2900, 2900), (4,))]
    world.sum_all_(parts)
    assert all(torch.equal(part, torch.full(part.shape, float(sum(everyone)))) for part in parts)
    assert world.most(world.rank) == world.size - 1
    assert world.broadcast({"rank": world.rank}) == {"rank": 0}
    table = torch.arange(6.0).reshape(2, 3).T + world.rank
    small = {"half": torch.tensor(2.5 + world.rank).to(torch.bfloat16), "on": torch.tensor([world.main])}
    told = world.broadcast_tensors({"table": table, "none": table[:0], **small} if world.main else {})
    assert torch.equal(told["table"], torch.arange(6.0).reshape(2, 3).T)
    assert (told["half"].item(), told["half"].dtype) == (2.5, torch.bfloat16)
    assert (told["on"].tolist(), told["none"].shape) == ([True], (0, 2))
    world.barrier()


def static(folder: Path) -> tuple[Trainee, SidedTokens]:
    """A static model and its tokens."""
    store = build_store(folder / "tokens", learn_tokenizer(QUERIES + PASSAGES, 300, 1), QUERIES + PASSAGES, "static")
    weight_VD = torch.randn(300, max(DIMS), generator=torch.Generator().manual_seed(0))
    return StaticTrainee(weight_VD), SidedTokens.same(store)


def transformer(folder: Path, precision: Precision) -> tuple[Trainee, SidedTokens]:
    """A transformer without dropout and its tokens; batches need several chunks."""
    tokenizer = learn_tokenizer(QUERIES + PASSAGES, 300, 1)
    model = new_transformer(tokenizer, 3, layers=2, hidden=16, heads=2, intermediate=24, max_positions=32)
    for module in model.encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    store = build_store(folder / "special", model.tokenizer, QUERIES + PASSAGES, "transformer")
    return model.trainee(Passes(100, precision, freeze_positions=True)), SidedTokens.same(store)


def phase(tokens: SidedTokens, lr: float) -> Phase:
    """Retrieval with hard negatives and graded pairs, both in every step."""
    query, passage = tokens.rows_of(QUERIES), tokens.rows_of(PASSAGES)
    once, matryoshka = np.ones(80, np.int64), Matryoshka.of(DIMS, "mean")
    negative = np.stack([np.roll(passage, shift) for shift in range(1, 7)], axis=1)
    negative[3, 2:] = ABSENT
    retrieval = Retrieval(query, passage, negative, once, 20, 20.0, matryoshka, bf16=False, learn_temperature=True)
    similarity = Similarity(query, np.roll(passage, 1), np.arange(80) % 3 / 2.0, once, 8, 20.0, matryoshka, 0.8)
    return Phase("both", [retrieval, similarity], 2, Optimiser(lr, 0.2, weight_decay=0.1, clip=1.0), 3, CBB)


def learn(
    world: World,
    trainee: Trainee,
    tokens: SidedTokens,
    folder: Path,
    lr: float,
    make: MakeEngine,
    steps: int | None = None,
) -> dict[str, Tensor]:
    """Train; losses of all steps, gradient of the first, last weights. With ``steps``, a checkpoint every so many."""
    first: dict[str, Tensor] = {}

    def watched(trainee: Trainee, optimiser: Optimiser, world: World, extra: Mapping[str, Tensor]) -> Engine:
        engine = make(trainee, optimiser, world, extra)
        step = engine.step

        def watch(lr: float) -> float | None:
            if not first:
                gradients = {name: value.grad for name, value in trainee.parameters.items()}
                first.update({f"grad.{name}": value.clone() for name, value in gradients.items() if value is not None})
            return step(lr)

        engine.step = watch  # type: ignore[method-assign]
        return engine

    checkpoints = Checkpoints(folder, "run", world=world)
    planned = phase(tokens, lr)
    check_world(planned.plan, world.size)
    log = train(
        trainee, tokens, [planned], Run(checkpoints, Cadence(steps), checkpoints.latest(), world=world, engine=watched)
    )
    weights = {f"weight.{name}": value.detach().clone() for name, value in trainee.parameters.items()}
    losses = torch.tensor([row.loss for row in log], dtype=torch.float64)
    vectors_TD = trainee.frozen()(tokens.bags(planned.objectives[0].texts(np.arange(9))), trainee.dims)
    return {"losses": losses, **first, **weights, "vectors": torch.from_numpy(vectors_TD)}


def everything(world: World, folder: Path, stages: Sequence[int]) -> dict[str, Tensor]:
    """All checks for this world; results by name."""
    own = folder / f"own-{world.rank}"
    own.mkdir(parents=True, exist_ok=True)
    collectives(world)
    results: dict[str, Tensor] = {}
    runs: list[tuple[str, float, MakeEngine]] = [("static", 0.05, TorchEngine), ("transformer", 0.01, TorchEngine)]
    runs += [(f"zero{stage}", 0.01, partial(open_engine, zero=stage)) for stage in stages]
    if stages:
        runs += [(f"fp16-{stage}", 0.01, partial(open_engine, zero=stage, fp16=True)) for stage in (0, stages[0])]
    for name, lr, make in runs:
        precision: Precision = "fp16" if name.startswith("fp16") else "fp32"
        trainee, tokens = static(own) if name == "static" else transformer(own, precision)
        found = learn(world, trainee, tokens, folder / f"checkpoints-{name}", lr, make)
        results |= {f"{name}.{key}": value for key, value in found.items()}
    return results


def main(folder: Path, stages: Sequence[int]) -> int:
    use_threads(1)
    world = World.from_environment()
    save_file(everything(world, folder, stages), folder / f"results-{world.rank}.safetensors")
    world.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [int(stage) for stage in sys.argv[2:]]))
