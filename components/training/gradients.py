"""The gradients of one step: embed its texts, take the losses on the embeddings of all, go back through one's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from components.training.distributed import Ranks, World
from components.training.engine import Engine
from components.training.objectives import Objective
from components.training.plan import Batch
from components.training.tokens import Rows, SidedTokens, Texts
from components.training.trainee import Trainee


def step_seed(seed: int, number: int, rank: int) -> int:
    """What a process draws of a step (dropout) follows from this alone, so a resumed run needs no generator's state."""
    return int(np.random.SeedSequence([seed, number, rank]).generate_state(1, np.uint64)[0])


def find_gradients(
    trainee: Trainee,
    engine: Engine,
    world: World,
    tokens: SidedTokens,
    objectives: Mapping[str, Objective],
    batches: Sequence[Batch],
    seed: int,
) -> tuple[Rows, Ranks, dict[str, float]]:
    """Tokens of the step's texts [T], who embedded them [T], and this process's share of the losses by task.

    The gradients of the losses' sum over tasks and processes are left in the parameters.

    Every process embeds its part of the step's texts, sees the embeddings of all, takes its share of the losses, and
    goes back through its own texts with the gradients that all shares have for them.
    """
    import torch

    parts = [objectives[batch.task].texts(batch.rows) for batch in batches]
    texts = Texts.concatenate(parts)
    length_T = tokens.lengths(texts)
    rank_T = world.place(length_T)
    own = np.flatnonzero(rank_T == world.rank)
    embedding_TD = world.gather(trainee.embed(tokens.bags(texts[own]), seed), rank_T)

    of_task = Counter(batch.task for batch in batches)
    losses = dict.fromkeys(of_task, 0.0)
    grads, first = [], 0
    for batch, part in zip(batches, parts, strict=True):
        share, roles = world.share(len(batch.rows)), of_task[batch.task]
        loss, grad_td = objectives[batch.task].loss(embedding_TD[first : first + len(part)], batch.rows, share)
        losses[batch.task] += loss / roles  # the mean over a task's roles
        grads.append(grad_td / roles if roles > 1 else grad_td)
        first += len(part)
    grad_TD = world.sum_(grads[0] if len(grads) == 1 else torch.cat(grads))
    del embedding_TD, grads, grad_td  # the way back needs memory
    engine.backward(grad_TD if world.size == 1 else grad_TD[torch.from_numpy(own)])
    return length_T, rank_T, losses
