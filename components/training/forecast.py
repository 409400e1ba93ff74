"""What a training would do and take, said before a minute is spent on it: parameters, plan, memory, time and cost.

The plan is the real one. Tokens are those of a few steps out of it. The speed is that of these steps with a static
model, with a transformer that of as many rows of the first as take a second or two; tokenising, mining and saving come
on top. Nothing is written: tokens go to a folder that is removed at the end.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from components.core import environment
from components.core.settings import Section
from components.core.step import Context
from components.training import estimate
from components.training.corpus import Rows
from components.training.distributed import World, place
from components.training.engine import TorchEngine
from components.training.gradients import find_gradients
from components.training.loop import Phase
from components.training.model import Model
from components.training.monitor import duration
from components.training.objectives import Objective
from components.training.plan import Batch, plan_lines
from components.training.session import Readings, Session
from components.training.tokens import SidedTokens, Texts, read_sides
from components.training.trainee import Trainee
from components.training.transformer import TransformerModel

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Steps whose texts are tokenised, evenly over a phase.
STEPS = 6
# Tokens of a pass when measuring begins, and seconds from which a measurement counts.
FIRST_TOKENS, SECONDS = 256, 0.7


def say(line: str = "") -> None:
    """One line of the forecast, on standard output."""
    click.echo(line)


def say_parameters(ctx: Context) -> None:
    """Every parameter in force; those that are not the default are marked."""
    say(f"{ctx.step}: parameters in force (* not the default)")
    for name, section in ctx.sections.items():
        default = dict(_flat(type(section)(), name))
        for key, value in _flat(section, name):
            say(f"  {'*' if default.get(key) != value else ' '} {key} = {value}")
    say(f"    run.seed = {ctx.seed}")
    say(f"    run.threads = {ctx.threads}")


def say_records(session: Session) -> None:
    """What there is to train on, and what is kept out of it."""
    corpus = session.corpus
    tasks = ", ".join(f"{count:,} {task}" for task, count in corpus.tasks().items())
    kept = f"; {len(session.kept_out):,} kept out to measure on" if session.kept_out is not None else ""
    say(f"\nrecords: {tasks}; {len(corpus.text_ids):,} distinct texts{kept}")


def say_plan(phases: Sequence[Phase], processes: int) -> None:
    """The steps of each phase."""
    for phase in phases:
        say(f"\n{phase.name}: learning rate {phase.optimiser.lr:g}, {phase.epochs} epochs")
        for line in plan_lines(phase.plan, phase.epochs, processes):
            say(f"  {line}")


def say_costs(session: Session, model: Model, phases: Sequence[Phase], how: Readings, dims: int, folder: str) -> None:
    """Tokens, memory, time here and cost on a GPU; ``dims``: number of Matryoshka dimensions."""
    cost, params = session.ctx.run.cost, session.params
    processes = max(environment.processes(), cost.gpus)
    samples = [_sample(session, phase, model.tokenizer, how, Path(folder) / phase.name) for phase in phases]
    if not samples:
        say("\nnothing is trained: the model stays as it starts")
        return
    trainee = session.trainee(model)
    say("\nwork")
    operations, seconds = 0.0, 0.0
    for phase, sample in zip(phases, samples, strict=True):
        tokens = round(sample.tokens * len(phase.steps))
        flops = getattr(trainee, "flops", None)
        done = float(np.mean([flops(length_T) for length_T in sample.lengths])) if flops else 0.0
        operations += done * len(phase.steps)
        took, of = _measure(trainee, phase, sample)
        seconds += took / of * sample.tokens * len(phase.steps)
        say(
            f"  {phase.name}: {len(phase.steps):,} steps of about {sample.tokens:,.0f} tokens in "
            f"{sample.texts:,.0f} texts, {tokens:,} tokens in all; {of / took:,.0f} tokens/s here"
        )
        if processes > 1:
            loads = [np.bincount(place(length_T, processes), length_T, processes) for length_T in sample.lengths]
            balance = np.mean([load.mean() / max(load.max(), 1) for load in loads])
            say(f"  {phase.name}: {processes} processes, balanced by tokens: the mean has {balance:.0%} of the fullest")
    say(f"\nmemory of a process ({processes} in all, ZeRO {params.zero})" if processes > 1 else "\nmemory")
    largest = max((sample.largest for sample in samples), key=lambda step: step.tokens)
    half = params.precision != "fp32"
    parts = estimate.memory(
        _shape(model, trainee), largest, params.chunk_tokens, dims, half, params.gradient_checkpointing,
        params.zero or 0, processes,
    )  # fmt: skip
    for line in estimate.memory_lines(parts):
        say(f"  {line}")
    say(f"\ntime on this machine, by steps measured just now: {duration(seconds)}")
    if operations:
        reckoned = estimate.gpu_cost(operations, cost.gpu, half, cost.mfu, cost.price)
        say(
            f"{operations:.3g} FLOPs; on {cost.gpus} × {cost.gpu} at {cost.mfu:.0%} of its peak: "
            f"{duration(3600 * reckoned.gpu_hours / cost.gpus)}, {reckoned.gpu_hours:,.2f} GPU-hours, "
            f"{reckoned.money:,.2f} at {cost.price:g} an hour"
        )


@dataclass(frozen=True)
class Sample:
    """A few steps of a phase: batches and lengths [T] of the texts of each, means of tokens and texts, the largest."""

    batches: Sequence[Sequence[Batch]]
    lengths: Sequence[Rows]
    tokens: float
    texts: float
    largest: estimate.Step
    store: SidedTokens


def _sample(session: Session, phase: Phase, tokenizer: Tokenizer, how: Readings, folder: Path) -> Sample:
    """Tokenise the texts of a few steps."""
    chosen = np.unique(np.linspace(0, len(phase.steps) - 1, STEPS).astype(int))
    batches = [phase.plan.batches(*phase.steps[number]) for number in chosen.tolist()]
    texts = [_texts(phase.objectives, step) for step in batches]
    every = Texts.concatenate(texts)
    used = {side: np.unique(every.rows[every.side == side]) for side in how}
    corpus = session.corpus
    store = read_sides(folder, tokenizer, corpus.text_ids, corpus.texts, how, used)
    lengths = [store.lengths(each) for each in texts]
    sums = [int(length_T.sum()) for length_T in lengths]
    most = int(np.argmax(sums))
    rows = max(len(batch.rows) for batch in batches[most])
    largest = estimate.Step(len(texts[most]), sums[most], rows, max(1, len(texts[most]) - rows))
    return Sample(batches, lengths, float(np.mean(sums)), float(np.mean([*map(len, texts)])), largest, store)


def _measure(trainee: Trainee, phase: Phase, sample: Sample) -> tuple[float, int]:
    """Seconds of the sampled steps of a static model, or of as much of a transformer's first as takes a moment.

    With the tokens of what was timed. At a learning rate of zero, so that no weight changes.
    """
    engine = TorchEngine(trainee, phase.optimiser, World(device=trainee.device))
    if not hasattr(trainee, "flops"):
        _step(trainee, engine, phase, sample.batches[0], sample.store)
        began = time.perf_counter()
        tokens = sum(_step(trainee, engine, phase, batches, sample.store) for batches in sample.batches)
        return time.perf_counter() - began, max(1, tokens)
    first = sample.batches[0]
    share = min(1.0, FIRST_TOKENS / max(1, int(sample.lengths[0].sum())))
    while True:
        batches = [Batch(one.task, one.rows[: max(2, round(share * len(one.rows)))], one.role) for one in first]
        began = time.perf_counter()
        tokens = _step(trainee, engine, phase, batches, sample.store)
        took = time.perf_counter() - began
        if took >= SECONDS or share == 1.0:
            began = time.perf_counter()
            _step(trainee, engine, phase, batches, sample.store)
            return min(took, time.perf_counter() - began), max(1, tokens)
        share = min(1.0, share * 4)


def _step(trainee: Trainee, engine: TorchEngine, phase: Phase, batches: Sequence[Batch], store: SidedTokens) -> int:
    """A whole step on these batches; the number of its tokens."""
    objectives = {objective.task.name: objective for objective in phase.objectives}
    alone = World(device=trainee.device)
    length_T, _, _ = find_gradients(trainee, engine, alone, store, objectives, batches, seed=0)
    engine.step(0.0)
    return int(length_T.sum())


def _texts(objectives: Sequence[Objective], batches: Sequence[Batch]) -> Texts:
    by_name = {objective.task.name: objective for objective in objectives}
    return Texts.concatenate([by_name[batch.task].texts(batch.rows) for batch in batches])


def _shape(model: Model, trainee: Trainee) -> estimate.Shape:
    trained = sum(weight.numel() for weight in trainee.parameters.values())
    if not isinstance(model, TransformerModel):
        return estimate.Shape(trained, trained, model.dims)
    config = model.encoder.config
    every = sum(tensor.numel() for tensor in model.tensors().values())
    return estimate.Shape(
        every, trained, model.dims, config.num_hidden_layers, config.hidden_size, config.intermediate_size
    )


def _flat(section: Section, name: str) -> Iterator[tuple[str, Any]]:
    for key in type(section).model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from _flat(value, f"{name}.{key}")
        else:
            yield f"{name}.{key}", _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Section):
        return value.model_dump()
    return dict(value) if isinstance(value, Mapping) else value


def plan_tokens(
    session: Session, tokenizer: Tokenizer, how: Readings, folder: str, distilled: Sequence[str], budget: int | None
) -> SidedTokens:
    """What a plan needs of the tokens: with a ``budget`` of tokens all of them, else the texts' rows alone."""
    if budget is None:
        return rows_alone(session)
    return session.corpus.sided(tokenizer, Path(folder) / "all", how, distilled)


def rows_alone(session: Session) -> SidedTokens:
    """The rows of the corpus's texts, without tokens."""
    return SidedTokens(session.corpus.text_ids, {})
