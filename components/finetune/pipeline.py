"""Fine-tuning: mine hard negatives with the pretrained model, then train all tasks together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from components.core.prompts import Prompts
from components.core.step import Context
from components.finetune.params import FinetuneParams
from components.finetune.tasks import hard_negatives, objectives, schedule, shared
from components.training.devset import write_dev
from components.training.dynamic import HardNegatives, VectorsOf, vectors_of, write_negatives
from components.training.history import final_losses, learned_values, write_losses, write_metrics
from components.training.loop import Phase
from components.training.model import Model, check_dims, load_model, save_model
from components.training.objectives import Matryoshka
from components.training.plan import check_tasks
from components.training.session import Session, limit_tokens, readings, token_limit
from components.training.settings import MaxTokens
from components.training.tokens import ABSENT
from components.training.trainee import Trainee
from components.training.transformer import TransformerModel

if TYPE_CHECKING:
    from torch import Tensor


def run(ctx: Context) -> None:
    """Run the step."""
    params = ctx.section(FinetuneParams)
    session = Session.open(ctx, params, shared(params))
    model, config = load_model(ctx.inputs["model"])
    dims, prompts, limit = settle(params, model, config)
    how = readings(prompts, limit, special=isinstance(model, TransformerModel))
    check_tasks(schedule(params), session.corpus.tasks())
    tokens = session.tokens(model.tokenizer, how)

    selection = session.selection(model.tokenizer, how)
    checkpoints, start = session.checkpoints([model.digest, dims, [asdict(reading) for reading in how.values()]])
    trainee = session.trainee(model)
    before = {name: weight.detach().clone() for name, weight in trainee.parameters.items()} if params.keep else {}
    pairs = session.corpus.retrieval(tokens)
    negatives = hard_negatives(params, pairs, model.dims, session.world)
    matryoshka = Matryoshka.of(params.matryoshka.dims or dims, params.matryoshka.reduction, params.matryoshka.weights)
    tasks = objectives(params, session, pairs, negatives or pairs.negatives, matryoshka, tokens)
    if negatives is not None and not start:
        _mine(ctx, params, negatives, vectors_of(trainee.vectors, tokens, session.world))
    for name, rows in session.corpus.tasks().items():
        left_out = rows - sum(len(task.task) for task in tasks if task.task.name == name)
        if left_out:
            ctx.log(f"{name}: {left_out:,} records left out: their sources have one grade for all pairs")
    phase = Phase("finetune", tasks, params.epochs, session.optimiser(params.lr), ctx.seed, schedule(params))
    log = session.train(trainee, tokens, [phase], checkpoints, start, selection)
    _interpolate(trainee, before, params.keep)

    if session.world.main:
        sides = {} if isinstance(limit, int) else {"max_tokens": limit.model_dump()}
        trained_on = {**config.get("training", {}), **session.corpus.provenance()}
        settled = {"matryoshka_dims": dims, "training": trained_on, **prompts.config(), **sides}
        save_model(model, ctx.outputs["output"], {**config, **settled})
        write_losses(ctx.outputs["loss"], log)
        write_dev(ctx.outputs["dev"], selection)
        write_negatives(ctx.outputs["negatives"], negatives)
        metrics = {
            "records": {task.task.name: len(task.task) for task in tasks},
            "steps": phase.plan.counts(),
            "loss": final_losses(log),
            **({"negatives": negatives.figures()} if negatives else {}),
            **learned_values(phase.objectives),
            **({"dev": selection.summary()} if selection else {}),
        }
        write_metrics(ctx.outputs["metrics"], metrics)
    session.end(checkpoints)


def settle(params: FinetuneParams, model: Model, config: Mapping[str, Any]) -> tuple[list[int], Prompts, MaxTokens]:
    """Matryoshka dimensions, prompts and token limits: as the parameters say, else as the model has them."""
    for dim in params.matryoshka.dims or ():
        check_dims(model, dim, "finetune.matryoshka.dims")
    dims = params.matryoshka.descending or config.get("matryoshka_dims") or [model.dims]
    prompts = Prompts.of(config) if params.prompts is None else Prompts(**params.prompts.model_dump())
    limit = params.max_tokens or token_limit(model, config)
    limit_tokens(model, limit, "finetune.max_tokens")
    return dims, prompts, limit


def _mine(ctx: Context, params: FinetuneParams, negatives: HardNegatives, vectors: VectorsOf) -> None:
    with ctx.progress("mine", len(negatives), "pairs") as bar:
        ranking = negatives.begin(vectors, bar.advance)
    found = int((ranking.candidates[:, :1] != ABSENT).sum())
    window = f"{params.mining.first}–{params.mining.last}"
    how = f"{ranking.index}, recall {ranking.recall:.3f}"
    ctx.log(f"{found:,} of {len(negatives):,} pairs have hard negatives from ranks {window} ({how})")


def _interpolate(trainee: Trainee, before: Mapping[str, Tensor], keep: float) -> None:
    """Move the trained weights a share ``keep`` of the way back (Wortsman et al. 2022).

    Between the two models lies one that has learned the tasks and forgotten less than the tuned one.
    """
    import torch

    with torch.no_grad():
        for name, weight in before.items():
            trainee.parameters[name].lerp_(weight, keep)
