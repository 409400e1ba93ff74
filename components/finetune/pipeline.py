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
from components.training.corpus import Corpus, RetrievalRows, read_corpus
from components.training.engine import Optimiser
from components.training.history import History, final_losses, write_losses, write_metrics
from components.training.lanes import use_threads
from components.training.loop import Phase, Run, train
from components.training.mining import Window, mine, unit_vectors
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
            _negatives(ctx, params, store, pairs, model),
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


def _negatives(
    ctx: Context, params: FinetuneParams, store: TokenStore, pairs: RetrievalRows, model: StaticModel
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The records' own hard negatives followed by the mined ones [N, K]."""
    mining = params.mining
    if not mining.negatives or not len(pairs.query):
        return pairs.negatives
    dims = min(mining.dims, model.dims)
    passage_P = np.unique(pairs.positive)
    window = Window(mining.first, mining.last, mining.ceiling)
    mined_NK = mine(
        unit_vectors(model.weight_VD, store, pairs.query, dims),
        pairs.positive,
        unit_vectors(model.weight_VD, store, passage_P, dims),
        passage_P,
        pairs.query,
        window,
        mining.negatives,
    )
    found = int((mined_NK >= 0).any(axis=1).sum())
    ctx.log(f"{found:,} of {len(mined_NK):,} pairs have hard negatives from ranks {mining.first}–{mining.last}")
    return np.concatenate([pairs.negatives, mined_NK], axis=1)
