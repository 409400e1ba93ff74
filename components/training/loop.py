"""The training loop: plan a step, embed its texts, take the losses, go back, step, log, measure, save.

Training is a list of phases run one after the other on one model; each has its objectives, its plan and its schedule.
All that the loop carries from step to step is in the checkpoint, so a run that was killed ends with the same bytes.
What decides anything is the same in every process; the first one's clock and any one's signal travel with the losses
of a step, and all act on them at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

from components.core.errors import InputError, Interrupted
from components.training.checkpoint import Cadence, Checkpoints, State
from components.training.devset import Selection
from components.training.distributed import World, balance
from components.training.dynamic import HardNegatives, vectors_of
from components.training.engine import Engine, Optimiser, TorchEngine, put
from components.training.gradients import find_gradients, step_seed
from components.training.history import History
from components.training.interrupt import Interruption
from components.training.monitor import Monitor
from components.training.objectives import Objective
from components.training.plan import Batch, BatchPlan, Schedule, Turns
from components.training.tokens import SidedTokens
from components.training.trainee import Trainee, placed

if TYPE_CHECKING:
    from torch import Tensor

_NAMED = 3  # records that a message about a batch names

MakeEngine = Callable[[Trainee, Optimiser, World, "Mapping[str, Tensor]"], Engine]


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
    def steps(self) -> Turns:
        """Its steps as (epoch, step of the epoch)."""
        return Turns([self.plan.steps(epoch) for epoch in range(self.epochs)])


@dataclass(frozen=True)
class Run:
    """What goes on beside the training: where it is saved and when, who measures, who watches.

    ``start`` is the state to go on from.
    """

    checkpoints: Checkpoints
    cadence: Cadence
    start: State | None = None
    selection: Selection | None = None
    monitor: Monitor = field(default_factory=Monitor)
    world: World = field(default_factory=World)
    engine: MakeEngine = TorchEngine


def train(trainee: Trainee, tokens: SidedTokens, phases: Sequence[Phase], run: Run) -> History:
    """Train the model in place, and return the log of every step.

    Where there is a dev set, the main process is left with the best weights, the others with the last.
    Raises Interrupted after SIGINT or SIGTERM, once the state is saved, and InputError when a loss is no longer a
    number, or a weight that would be saved is not.
    """
    world, checkpoints, selection, start = run.world, run.checkpoints, run.selection, run.start
    log = History.of(start)
    # those of a later phase are mined before the first one, so every checkpoint has all
    every = [(f"{phase.name}/{one.task.name}", one) for phase in phases for one in phase.objectives]
    mined = {name: one.negatives for name, one in every if one.negatives}
    if start:
        for name, negatives in mined.items():
            negatives.load(_part(start.tensors, name))
        if selection:
            selection.measured = list(start.values["dev"])
    total, done, first = sum(len(phase.steps) for phase in phases), log.steps, 0
    run.cadence.began(done)
    run.monitor.began(done, total)
    with Interruption() as interruption, checkpoints:
        for phase in phases:
            steps, after = phase.steps, first + len(phase.steps)
            if after < done or (selection and selection.hopeless):
                first = after
                continue
            objectives = {objective.task.name: objective for objective in phase.objectives}
            learned = {name: value for objective in phase.objectives for name, value in objective.parameters.items()}
            engine = run.engine(trainee, phase.optimiser, world, learned)
            if start and first < done <= after:
                engine.load(start.tensors)
            for number in range(max(first, done), after):
                if selection and selection.hopeless:
                    break
                batches = phase.plan.batches(*steps[number - first])
                seed = step_seed(phase.seed, number, world.rank)
                length_T, rank_T, losses = find_gradients(trainee, engine, world, tokens, objectives, batches, seed)
                save = world.main and run.cadence.due(number + 1) and not checkpoints.busy
                losses, save, stop = _agree(world, losses, save, interruption.requested)
                for task, loss in losses.items():
                    if not math.isfinite(loss):
                        raise InputError(_no_number(phase, number, task, loss, batches))
                rate = phase.optimiser.rate(number - first, len(steps))
                norm = engine.step(rate)
                done = number + 1
                log.add(number, losses, rate, norm, int(length_T.sum()))
                figures = {"lr": rate, **{name: float(value.detach()) for name, value in learned.items()}}
                figures |= {} if norm is None else {"gradient_norm": norm}
                figures |= _replace_negatives(phase, trainee, tokens, done)
                if world.size > 1:
                    figures["balance"] = balance(length_T, rank_T, world.size)
                better = False
                if selection and selection.due(done, total):
                    vectors = partial(placed, trainee.vectors, selection.tokens, trainee.dims, world)
                    better = selection.measure(done, vectors)
                    figures |= selection.figures()
                run.monitor.step(number, losses, length_T, figures)
                stop = stop or (world.size == 1 and interruption.requested)
                if better or save or stop:
                    run.cadence.began(done)
                    _check_weights(phase, number, trainee)
                    state = _state(engine, log, mined, selection)
                    checkpoints.start(done, state, selection.best if selection else None)
                if stop:
                    checkpoints.wait()
                    world.barrier()  # whoever ends first has torchrun end the others
                    raise Interrupted(f"interrupted after step {done}; the same command goes on from there")
            engine.close()
            _check_weights(phase, after - 1, trainee)
            first = after
    if world.main and selection and selection.best not in (None, done):
        put(trainee.parameters, checkpoints.read(selection.best).tensors)
    return log


def _replace_negatives(phase: Phase, trainee: Trainee, tokens: SidedTokens, done: int) -> dict[str, float]:
    """Let the negatives that are watched change, now that a step is done; what there is to tell of them."""
    told: dict[str, float] = {}
    for objective in phase.objectives:
        if objective.negatives:
            figures = objective.negatives.finish_step(done, lambda: vectors_of(trainee.frozen(), tokens))
            told |= {f"negatives/{name}": value for name, value in figures.items()}
    return told


def _state(engine: Engine, log: History, mined: Mapping[str, HardNegatives], selection: Selection | None) -> State:
    """All that the loop carries from step to step; every process calls it."""
    tensors = {**engine.state(), **log.state()}
    for name, negatives in mined.items():
        tensors |= {f"{name}:{key}": tensor for key, tensor in negatives.state().items()}
    return State(tensors, {"tasks": log.tasks, "dev": selection.measured if selection else []})


def _no_number(phase: Phase, number: int, task: str, loss: float, batches: Sequence[Batch]) -> str:
    names = [name for batch in batches if batch.task == task for name in phase.plan.names(batch)]
    named = ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
    return f"{phase.name}, step {number}, {task} ({named}): the loss is {loss}; lower the lr"


def _check_weights(phase: Phase, number: int, trainee: Trainee) -> None:
    """Raise InputError for weights that the next loss would stumble over: they must not replace good ones."""
    for weight in trainee.parameters.values():
        if weight.numel() and not all(math.isfinite(bound) for bound in weight.detach().aminmax()):
            raise InputError(f"{phase.name}, step {number}: a weight is no longer a finite number; lower the lr")


def _part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors called ``name:KEY``, by key."""
    return {key.partition(":")[2]: tensor for key, tensor in tensors.items() if key.startswith(f"{name}:")}


def _agree(world: World, losses: Mapping[str, float], save: bool, stop: bool) -> tuple[dict[str, float], bool, bool]:
    """The losses of all shares together, and whether any process wants to save or to stop."""
    import torch

    told = torch.tensor([*losses.values(), save, stop], dtype=torch.float64, device=world.device)
    *values, savers, stoppers = world.sum_(told).tolist()
    return dict(zip(losses, values, strict=True)), savers > 0, stoppers > 0
