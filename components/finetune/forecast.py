"""What fine-tuning would do and take, without a minute of it."""

from __future__ import annotations

import tempfile

import numpy as np

from components.core.step import Context
from components.finetune.params import FinetuneParams
from components.finetune.pipeline import settle
from components.finetune.tasks import objectives, retrieval_roles, schedule, shared
from components.training.corpus import RetrievalRows, Rows
from components.training.forecast import plan_tokens, say_costs, say_parameters, say_plan, say_records
from components.training.loop import Phase
from components.training.model import load_model
from components.training.objectives import Matryoshka
from components.training.plan import check_tasks
from components.training.session import Session, readings
from components.training.transformer import TransformerModel


def run(ctx: Context) -> None:
    """Print it."""
    given = ctx.section(FinetuneParams)
    # a guide would embed every text first
    params = given.model_copy(update={"retrieval": given.retrieval.model_copy(update={"guide": None})})
    say_parameters(ctx)
    session = Session.open(ctx, params, shared(params))
    say_records(session)
    check_tasks(schedule(params), session.corpus.tasks())
    model, config = load_model(ctx.inputs["model"])
    dims, prompts, limit = settle(params, model, config)
    how = readings(prompts, limit, special=isinstance(model, TransformerModel))
    with tempfile.TemporaryDirectory() as folder:
        tokens = plan_tokens(session, model.tokenizer, how, folder, (), params.schedule.batch_tokens)
        pairs = session.corpus.retrieval(tokens)
        matryoshka = Matryoshka.of(dims, params.matryoshka.reduction)
        tasks = objectives(params, session, pairs, _some_negatives(params, pairs), matryoshka, tokens)
        phase = Phase("finetune", tasks, params.epochs, session.optimiser(params.lr), ctx.seed, schedule(params))
        say_plan([phase], session.world.size)
        say_costs(session, model, [phase], how, len(dims), folder)


def _some_negatives(params: FinetuneParams, pairs: RetrievalRows) -> Rows:
    """As many negatives as would be mined, drawn from the passages: which ones is not known before."""
    count = params.mining.negatives * retrieval_roles(params)
    passages = np.unique(pairs.positive)
    if not count or not len(passages):
        return pairs.negatives
    drawn = np.random.default_rng(0).choice(passages, (len(pairs.query), count))
    return drawn if params.mining.dynamic else np.concatenate([pairs.negatives, drawn], axis=1)
