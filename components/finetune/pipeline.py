"""Fine-tuning: mine hard negatives with the pretrained model, then train all three tasks together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.core.errors import UsageError
from components.core.fingerprint import code_digest, digest_json
from components.core.step import Context
from components.finetune.params import FinetuneParams
from components.training.checkpoint import Cadence, Checkpoints
from components.training.corpus import ABSENT, Corpus, RetrievalRows, Rows, read_corpus
from components.training.dynamic import HardNegatives, Pool, Rule, vectors_of, write_negatives
from components.training.engine import Optimiser
from components.training.history import History, final_losses, write_losses, write_metrics
from components.training.lanes import use_threads
from components.training.loop import Phase, Run, train
from components.training.mining import Window
from components.training.model import StaticModel, load_model, save_model
from components.training.monitor import Monitor
from components.training.objectives import ClassContrast, Matryoshka, Objective, Retrieval, Similarity
from components.training.tokens import SidedTokens
from components.training.trainee import StaticTrainee

if TYPE_CHECKING:
    from components.training.tokens import TokenStore

WORK = Path(".embedmill")


def run(ctx: Context) -> None:
    """Run the step."""
    import torch

    params = ctx.section(FinetuneParams)
    use_threads(ctx.threads)
    corpus = read_corpus(ctx.inputs["input"])
    model, config = load_model(ctx.inputs["model"])
    if not isinstance(model, StaticModel):
        raise UsageError(f"{ctx.inputs['model']}: a transformer; finetune trains static models")
    store = corpus.tokenised(model.tokenizer, WORK / "cache" / "tokens")

    made_from = [
        params.model_dump(mode="json"),
        [ctx.seed, corpus.digest, model.digest, torch.__version__],
        code_digest("components.core", "components.training", "components.finetune"),
    ]
    checkpoints = Checkpoints(WORK / "checkpoints" / "finetune", digest_json(made_from), params.checkpoint.keep)
    start = checkpoints.latest()
    matryoshka = Matryoshka.of(config["matryoshka_dims"], params.matryoshka.reduction)
    objectives = _objectives(ctx, params, corpus, store, model, matryoshka)
    phase = Phase("finetune", objectives, params.epochs, Optimiser(params.lr, params.warmup), ctx.seed)
    if start:
        ctx.log(f"goes on after step {History.of(start).steps}")
    tuned = StaticModel(model.tokenizer, start.tensors["weight"] if start else model.weight_VD.clone())
    trainee, tokens = StaticTrainee(tuned.weight_VD), SidedTokens.same(store)
    negatives = next((objective.negatives for objective in objectives if objective.negatives), None)
    if negatives and not start:
        _mine(ctx, params, negatives, trainee, tokens)
    cadence = Cadence(params.checkpoint.steps, params.checkpoint.minutes)
    with Monitor("finetune", ctx.log) as monitor:
        log = train(trainee, tokens, [phase], Run(checkpoints, cadence, start, monitor=monitor))

    # between the two models lies one that has learned the tasks and forgotten less than the tuned one
    tuned.weight_VD.lerp_(model.weight_VD, params.keep)
    save_model(tuned, ctx.outputs["output"], {**config, "training": corpus.provenance()})
    write_losses(ctx.outputs["loss"], log)
    metrics = {
        "records": {objective.task.name: len(objective.task) for objective in objectives},
        "steps": phase.plan.counts(),
        "loss": final_losses(log),
    }
    if negatives:
        metrics["negatives"] = negatives.figures()
    write_negatives(ctx.outputs["negatives"], negatives)
    write_metrics(ctx.outputs["metrics"], metrics)
    checkpoints.clear()


def _objectives(
    ctx: Context, params: FinetuneParams, corpus: Corpus, store: TokenStore, model: StaticModel, matryoshka: Matryoshka
) -> list[Objective]:
    """The objectives of the tasks that have records."""
    pairs, graded = corpus.retrieval(store), corpus.similarity(store)
    classes = corpus.classes(store, params.classes.negatives, ctx.seed)
    objectives: list[Objective] = [
        Retrieval(
            pairs.query,
            pairs.positive,
            _negatives(params, pairs, model),
            pairs.repeat,
            params.retrieval.batch_size,
            1 / params.retrieval.temperature,
            matryoshka,
            params.precision == "bf16",
        ),
        Similarity(
            graded.left,
            graded.right,
            graded.label,
            graded.repeat,
            params.similarity.batch_size,
            1 / params.similarity.temperature,
            matryoshka,
            params.similarity.weight,
        ),
        ClassContrast(
            classes.text,
            classes.label,
            classes.others,
            classes.repeat,
            params.classes.batch_size,
            1 / params.classes.temperature,
            matryoshka,
            params.classes.weight,
        ),
    ]
    return [objective for objective in objectives if len(objective.task)]


def _negatives(params: FinetuneParams, pairs: RetrievalRows, model: StaticModel) -> Rows | HardNegatives:
    """The records' own hard negatives alone, or with mined ones."""
    mining, schedule = params.mining, params.schedule
    if not mining.negatives or not len(pairs.query):
        return pairs.negatives
    window = Window(mining.first, mining.last, mining.ceiling)
    pool = Pool(pairs.query, pairs.positive, np.unique(pairs.positive), window, min(mining.dims, model.dims))
    rule = Rule(**mining.dynamic.model_dump()) if mining.dynamic else None
    roles = schedule.roles.retrieval if schedule.sampling == "balanced" else 1
    return HardNegatives(pool, mining.negatives, rule, pairs.negatives, roles)


def _mine(
    ctx: Context, params: FinetuneParams, negatives: HardNegatives, trainee: StaticTrainee, tokens: SidedTokens
) -> None:
    """Mine with the pretrained model."""
    with ctx.progress("mining", len(negatives), "pairs") as bar:
        ranking = negatives.begin(vectors_of(trainee.vectors, tokens), bar.advance)
    found = int((ranking.candidates != ABSENT).any(axis=1).sum())
    ctx.log(
        f"{found:,} of {len(negatives):,} pairs have hard negatives from ranks "
        f"{params.mining.first}–{params.mining.last} ({ranking.index}, recall {ranking.recall:.3f})"
    )
