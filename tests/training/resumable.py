"""A small training as a process of its own, alone or one of several, which may be told to die.

``python -m tests.training.resumable KIND FOLDER [STEP SIGNAL RANK…]``: train a ``static`` model or a ``transformer``
with dropout, going on from what FOLDER holds; the first time that STEP is done, the processes RANK get SIGNAL.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

from components.core import storage
from components.core.errors import Interrupted
from components.training.checkpoint import Cadence, Checkpoints
from components.training.corpus import ABSENT
from components.training.distributed import World
from components.training.dynamic import HardNegatives, Pool, Rule, vectors_of
from components.training.engine import Optimiser
from components.training.lanes import use_threads
from components.training.loop import Phase, Run, train
from components.training.mining import Window
from components.training.monitor import Monitor
from components.training.objectives import Matryoshka, Retrieval, Similarity
from components.training.tokens import SidedTokens, build_store
from components.training.trainee import StaticTrainee, Trainee
from components.training.vocabulary import learn_tokenizer

WORDS = ("table", "file", "socket", "thread", "matrix", "string", "image", "queue")


# so eager that a few steps hold everything: replacements, lists used up, mining in the background
EAGER = Rule(check_every=2, ratio=1.001, ceiling=1.0, offset=2)


def make(kind: str, folder: Path, world: World) -> tuple[Trainee, SidedTokens, list[Phase], HardNegatives]:
    """The model, its tokens, two phases of some steps, and the second one's negatives, which are mined and replaced."""
    queries = [f"{first} of a {second}" for first in WORDS for second in WORDS]
    passages = [f"the {first} is {len(second)} times a {second}" for first in WORDS for second in WORDS]
    tokenizer = learn_tokenizer(queries + passages, 200, 1)
    store = build_store(folder / f"tokens-{os.getpid()}", tokenizer, queries + passages, "all")
    query_N, passage_N = store.rows_of(queries), store.rows_of(passages)
    trainee: Trainee
    if kind == "static":
        torch.manual_seed(0)
        trainee = StaticTrainee(torch.randn(tokenizer.get_vocab_size(), 16))
    else:
        from components.training.transformer import Passes, TransformerTrainee, new_transformer

        model = new_transformer(tokenizer, 0, layers=2, hidden=16, heads=2, intermediate=32, max_positions=32)
        trainee = TransformerTrainee(model, Passes(chunk_tokens=100))
    once_N, matryoshka = np.ones(len(queries), np.int64), Matryoshka.of((8, 16), "mean")
    negative_N1 = np.roll(passage_N, 3)[:, None]
    negative_N1[::5] = ABSENT
    pairs = Retrieval(query_N, passage_N, negative_N1, once_N, 16, 20.0, matryoshka, bf16=False)
    pool = Pool(query_N, passage_N, np.unique(passage_N), Window(0, 2, 9.0), 8)
    mined = HardNegatives(pool, 1, EAGER, negative_N1, world=world)
    hard = Retrieval(query_N, passage_N, mined, once_N, 16, 20.0, matryoshka, bf16=False)
    graded = Similarity(query_N, np.roll(passage_N, 1), once_N.cumsum() % 3 / 2, once_N, 16, 20.0, matryoshka, 0.5)
    optimiser = Optimiser(0.01, 0.2, clip=1.0)
    return (
        trainee,
        SidedTokens.same(store),
        [Phase("first", [pairs], 1, optimiser, 3), Phase("second", [hard, graded], 2, optimiser, 4)],
        mined,
    )


def killer(
    folder: Path, mirror: str | None, world: World, step: int, number: int, ranks: Sequence[int]
) -> Callable[..., None]:
    """Sends this process the signal once; after the first steps, when there is something to go on from."""
    mark, kept = folder / f"killed-{world.rank}", mirror or str(folder / "checkpoints")

    def curves(done: int, figures: Mapping[str, float]) -> None:
        if done == step and world.rank in ranks and not mark.exists():
            mark.touch()
            while step and not any(info.uri.endswith("COMPLETE") for info in storage.list_files(kept)):
                time.sleep(0.01)
            os.kill(os.getpid(), number)

    return curves


def main(kind: str, folder: Path, fate: Sequence[int], mirror: str | None = None) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    use_threads(1)
    world = World.from_environment()
    trainee, tokens, phases, negatives = make(kind, folder, world)
    checkpoints = Checkpoints(folder / "checkpoints", "run", world=world, mirror=mirror)
    monitor = Monitor(curves=killer(folder, mirror, world, *fate[:2], fate[2:])) if fate else Monitor()
    start = checkpoints.latest()
    if start is None:
        negatives.begin(vectors_of(trainee.vectors, tokens))
    try:
        log = train(trainee, tokens, phases, Run(checkpoints, Cadence(2), start, monitor=monitor, world=world))
    except Interrupted as error:
        (folder / f"interrupted-{world.rank}").write_text(str(error))
        return 5
    digest = sha256()
    for name, weight in sorted(trainee.parameters.items()):
        digest.update(name.encode() + weight.detach().numpy().tobytes())
    mined = {"negatives": negatives.figures(), "rows": negatives.rows()}
    result = {**mined, "weights": digest.hexdigest(), "log": [asdict(row) for row in log], "resumed": start is not None}
    (folder / f"result-{world.rank}.json").write_text(json.dumps(result))
    world.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), [int(number) for number in sys.argv[3:]]))
