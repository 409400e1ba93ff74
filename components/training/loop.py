"""The training loop: plan a batch, embed it, take the loss, step, log, save.

Training is a list of phases run one after the other on one model; each has its objectives, its plan and its schedule.
All that the loop carries from step to step is in the checkpoint, so a run that was killed ends with the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from components.core.errors import InputError, Interrupted
from components.training.checkpoint import Checkpoints, State
from components.training.interrupt import Interruption
from components.training.objectives import Objective
from components.training.plan import BatchPlan
from components.training.static import bag_gradient, bag_mean
from components.training.tokens import TokenStore

if TYPE_CHECKING:
    from components.training.model import StaticModel

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what torch's AdamW remembers of a parameter


@dataclass(frozen=True)
class Optimiser:
    """AdamW with linear warm-up over the share ``warmup`` of the steps, then linear decay to zero."""

    lr: float
    warmup: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of ``step`` (from 0) of ``steps``."""
        rising = max(1, math.ceil(self.warmup * steps))
        return self.lr * min((step + 1) / rising, (steps - step) / max(1, steps - rising + 1))


@dataclass(frozen=True)
class Phase:
    """A stretch of training: several objectives trained together for some epochs."""

    name: str
    objectives: Sequence[Objective]
    epochs: int
    optimiser: Optimiser
    seed: int

    @cached_property
    def plan(self) -> BatchPlan:
        """Its batch plan."""
        return BatchPlan([objective.task for objective in self.objectives], self.seed)

    @cached_property
    def steps(self) -> list[tuple[int, int]]:
        """Its steps as (epoch, step of the epoch)."""
        return [(epoch, turn) for epoch in range(self.epochs) for turn in range(self.plan.steps(epoch))]


@dataclass(frozen=True)
class Logged:
    """One step of the log: number over all phases, task, loss and learning rate."""

    step: int
    task: str
    loss: float
    lr: float


def train(
    model: StaticModel,
    store: TokenStore,
    phases: Sequence[Phase],
    checkpoints: Checkpoints,
    checkpoint_steps: int,
    advance: Callable[[], None],
    start: State | None = None,
) -> list[Logged]:
    """Train ``model`` in place; the log of every step.

    ``start`` is the state to go on from, whose weights the model has already. Raises Interrupted after SIGINT or
    SIGTERM, once the state is saved, and InputError when the loss is no longer a number.
    """
    import torch

    weight_VD = model.weight_VD
    weight_VD.grad = torch.zeros_like(weight_VD)
    log = [Logged(**row) for row in start.values["log"]] if start else []
    done = len(log)
    first = 0  # number of the phase's first step
    with Interruption() as interruption:
        for phase in phases:
            steps = phase.steps
            objectives = {objective.task.name: objective for objective in phase.objectives}
            optimiser = phase.optimiser
            adamw = torch.optim.AdamW(
                [weight_VD], lr=optimiser.lr, betas=optimiser.betas, weight_decay=optimiser.weight_decay, fused=True
            )
            if start and first < done < first + len(steps):
                adamw.state[weight_VD] = {name: start.tensors[name] for name in _MOMENTS}
            for step in range(max(0, done - first), len(steps)):
                batch = phase.plan.batch(*steps[step])
                objective = objectives[batch.task]
                bags = store.bags(objective.texts(batch.rows))
                loss, grad_TD = objective.loss(bag_mean(weight_VD, bags), batch.rows)
                if not math.isfinite(loss):
                    raise InputError(f"{phase.name}, step {step}, {batch.task}: the loss is {loss}; lower the lr")
                bag_gradient(grad_TD, bags, weight_VD.grad)
                adamw.param_groups[0]["lr"] = rate = optimiser.rate(step, len(steps))
                adamw.step()
                log.append(Logged(first + step, batch.task, loss, rate))
                advance()
                if interruption.requested or len(log) % checkpoint_steps == 0:
                    tensors = {"weight": weight_VD, **adamw.state[weight_VD]}
                    checkpoints.save(len(log), State(tensors, {"log": [asdict(row) for row in log]}))
                if interruption.requested:
                    raise Interrupted(f"interrupted after step {len(log)}; the same command goes on from there")
            first += len(steps)
    return log
