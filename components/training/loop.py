"""The training loop: plan a step, embed its texts, take the losses, go back, step, log, save.

Training is a list of phases run one after the other on one model; each has its objectives, its plan and its schedule.
All that the loop carries from step to step is in the checkpoint, so a run that was killed ends with the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property

import numpy as np

from components.core.errors import InputError, Interrupted
from components.training.checkpoint import Checkpoints, State
from components.training.distributed import World
from components.training.engine import Engine, Optimiser, TorchEngine
from components.training.interrupt import Interruption
from components.training.objectives import Objective
from components.training.plan import Batch, BatchPlan, Schedule
from components.training.tokens import SidedTokens, Texts
from components.training.trainee import Trainee


@dataclass(frozen=True)
class Phase:
    """A stretch of training: several objectives trained together for some epochs."""

    name: str
    objectives: Sequence[Objective]
    epochs: int
    optimiser: Optimiser
    seed: int
    schedule: Schedule = field(default_factory=Schedule)

    @cached_property
    def plan(self) -> BatchPlan:
        """Its batch plan."""
        return BatchPlan([objective.task for objective in self.objectives], self.seed, self.schedule)

    @cached_property
    def steps(self) -> list[tuple[int, int]]:
        """Its steps as (epoch, step of the epoch)."""
        return [(epoch, turn) for epoch in range(self.epochs) for turn in range(self.plan.steps(epoch))]


@dataclass(frozen=True)
class Logged:
    """One task of one step: number of the step over all phases, task, loss and learning rate."""

    step: int
    task: str
    loss: float
    lr: float


def train(
    trainee: Trainee,
    tokens: SidedTokens,
    phases: Sequence[Phase],
    checkpoints: Checkpoints,
    checkpoint_steps: int,
    advance: Callable[[], None],
    start: State | None = None,
    world: World | None = None,
) -> list[Logged]:
    """Train the model in place; the log of every step.

    ``start`` is the state to go on from. Raises Interrupted after SIGINT or SIGTERM, once the state is saved, and
    InputError when a loss is no longer a number.
    """
    world = world or World()
    log = [Logged(**row) for row in start.values["log"]] if start else []
    done = int(start.values["step"]) if start else 0
    first = 0  # number of the phase's first step
    with Interruption() as interruption:
        for phase in phases:
            steps, after = phase.steps, first + len(phase.steps)
            objectives = {objective.task.name: objective for objective in phase.objectives}
            learned = {name: value for objective in phase.objectives for name, value in objective.parameters.items()}
            engine = TorchEngine(trainee, phase.optimiser, world, learned)
            if start and first < done <= after:
                engine.load(start.tensors)
            for number in range(max(first, done), after):
                batches = phase.plan.batches(*steps[number - first])
                losses = _backward(trainee, engine, world, tokens, objectives, batches, number)
                for task, loss in losses.items():
                    if not math.isfinite(loss):
                        raise InputError(f"{phase.name}, step {number}, {task}: the loss is {loss}; lower the lr")
                rate = phase.optimiser.rate(number - first, len(steps))
                engine.step(rate)
                log += [Logged(number, task, loss, rate) for task, loss in losses.items()]
                done = number + 1
                advance()
                if interruption.requested or done % checkpoint_steps == 0:
                    values = {"step": done, "log": [asdict(row) for row in log]}
                    checkpoints.save(done, State(engine.state(), values))
                if interruption.requested:
                    raise Interrupted(f"interrupted after step {done}; the same command goes on from there")
            first = after
    return log


def _backward(
    trainee: Trainee,
    engine: Engine,
    world: World,
    tokens: SidedTokens,
    objectives: Mapping[str, Objective],
    batches: Sequence[Batch],
    number: int,
) -> dict[str, float]:
    """Losses of the step's tasks; the gradients of their sum are left in the parameters.

    Every process embeds its part of the step's texts, sees the embeddings of all, takes its share of the losses, and
    goes back through its own texts with the gradients that all shares have for them.
    """
    import torch

    parts = [objectives[batch.task].texts(batch.rows) for batch in batches]
    texts = Texts.concatenate(parts)
    rank_T = world.place(tokens.lengths(texts))
    own = np.flatnonzero(rank_T == world.rank)
    embedding_TD = world.gather(trainee.embed(tokens.bags(texts[own]), number), rank_T)

    of_task = Counter(batch.task for batch in batches)
    value_K = torch.zeros(len(batches), dtype=torch.float64)
    grads, first = [], 0
    for k, (batch, part) in enumerate(zip(batches, parts, strict=True)):
        share = world.share(len(batch.rows))
        loss, grad_td = objectives[batch.task].loss(embedding_TD[first : first + len(part)], batch.rows, share)
        value_K[k] = loss / of_task[batch.task]  # the mean over a task's roles
        grads.append(grad_td / of_task[batch.task] if of_task[batch.task] > 1 else grad_td)
        first += len(part)
    grad_TD = world.sum_(grads[0] if len(grads) == 1 else torch.cat(grads))
    engine.backward(grad_TD if world.size == 1 else grad_TD[torch.from_numpy(own)])

    losses = dict.fromkeys(of_task, 0.0)
    for batch, value in zip(batches, world.sum_(value_K).tolist(), strict=True):
        losses[batch.task] += value
    return losses
