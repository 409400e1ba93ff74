"""What pretraining would do and take, without a minute of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.core.step import Context
from components.pretrain.params import PretrainParams
from components.pretrain.pipeline import contrast, distilled_languages, shared
from components.pretrain.start import find_tokenizer, prompts_of, start_transformer
from components.training.forecast import (
    plan_tokens,
    rows_alone,
    say_costs,
    say_parameters,
    say_plan,
    say_records,
)
from components.training.loop import Phase
from components.training.model import Model, StaticModel
from components.training.objectives import Distillation, Matryoshka
from components.training.session import Session, readings
from components.training.tokens import SidedTokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE = 2_000_000  # characters that a tokenizer is learned from here


def run(ctx: Context) -> None:
    """Print it."""
    given = ctx.section(PretrainParams)
    # a guide would embed every text first
    params = given.model_copy(update={"contrast": given.contrast.model_copy(update={"guide": None})})
    say_parameters(ctx)
    session = Session.open(ctx, params, shared(params))
    say_records(session)
    languages = session.corpus.languages()
    distilled = distilled_languages(params, languages, {lang: lang for lang in languages if lang in params.teachers})
    budget, static = params.schedule.batch_tokens, params.model.type == "static"
    dims = params.matryoshka.descending
    if budget is None:  # said before the model is looked for, which may be out of reach
        say_plan(_phases(session, params, distilled, rows_alone(session), dims or [1]), session.world.size)
    transformer = None if static else start_transformer(params, session.corpus, ctx.seed)
    tokenizer = _tokenizer(params, session) if transformer is None else transformer.tokenizer
    model: Model = transformer or _table(params, tokenizer)
    dims = dims or [model.dims]
    how = readings(prompts_of(params), params.max_tokens, special=not static)
    with tempfile.TemporaryDirectory() as folder:
        tokens = plan_tokens(session, tokenizer, how, folder, distilled, budget)
        phases = _phases(session, params, distilled, tokens, dims)
        if budget is not None:
            say_plan(phases, session.world.size)
        say_costs(session, model, phases, how, len(dims), folder)


def _phases(
    session: Session, params: PretrainParams, distilled: Sequence[str], tokens: SidedTokens, dims: Sequence[int]
) -> list[Phase]:
    matryoshka = Matryoshka.of(dims, params.matryoshka.reduction)
    phases = []
    for lang in distilled:
        rows = tokens.rows_of(session.corpus.texts_of_language(lang))
        target_NE = np.broadcast_to(np.ones((1, max(dims)), dtype=np.float32), (len(rows), max(dims)))
        objective = Distillation(rows, target_NE, params.distill.batch_size, matryoshka)
        optimiser = session.optimiser(params.distill.lr)
        phases.append(Phase(f"distil {lang}", [objective], params.distill.epochs, optimiser, session.ctx.seed))
    return [*phases, *contrast(session, params, tokens, distilled, matryoshka)]


def _tokenizer(params: PretrainParams, session: Session) -> Tokenizer:
    characters = min(SAMPLE, params.sample_characters)
    return find_tokenizer(params.model_copy(update={"sample_characters": characters}), session.corpus)


def _table(params: PretrainParams, tokenizer: Tokenizer) -> StaticModel:
    """A table of random rows, as large as the real one may be."""
    import torch

    count = tokenizer.get_vocab_size() if params.tokenizer != "train" else params.vocab_size
    generator = torch.Generator().manual_seed(0)
    return StaticModel(tokenizer, torch.randn(count, params.matryoshka.descending[0], generator=generator))
