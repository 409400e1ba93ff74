"""Pretraining: start a model, distil the teachers, contrast the pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from components.core.errors import UsageError
from components.core.step import Context
from components.pretrain.initial import principal_axes
from components.pretrain.params import PretrainParams
from components.pretrain.start import find_tokenizer, prompts_of, start_static, start_transformer
from components.training.devset import write_dev
from components.training.encoder import Encoder, open_encoder
from components.training.history import final_losses, learned_values, write_losses, write_metrics
from components.training.loop import Phase
from components.training.model import Model, save_model
from components.training.objectives import Distillation, Matryoshka
from components.training.plan import Schedule
from components.training.session import Session, readings
from components.training.tokens import SidedTokens
from components.training.vectors import TEACHER_CACHE, encode_cached


def run(ctx: Context) -> None:
    """Run the step."""
    params = ctx.section(PretrainParams)
    session = Session.open(ctx, params, shared(params))
    corpus, static = session.corpus, params.model.type == "static"
    teachers = open_teachers(params, corpus.languages())
    distilled = distilled_languages(params, corpus.languages(), teachers)
    transformer = None if static else start_transformer(params, corpus, ctx.seed)
    tokenizer = find_tokenizer(params, corpus) if transformer is None else transformer.tokenizer
    how = readings(prompts_of(params), params.max_tokens, special=not static)
    tokens = session.tokens(tokenizer, how, distilled)
    count = sum(len(store.tokens) for store in tokens.stores)
    ctx.log(f"{len(tokens):,} distinct texts, {count:,} tokens of {tokenizer.get_vocab_size():,} kinds")

    selection = session.selection(tokenizer, how)
    digest = "" if transformer is None else transformer.digest
    checkpoints, start = session.checkpoints([tokenizer.to_str(), digest])
    model: Model = transformer or start_static(params, tokenizer, tokens, ctx.seed, teachers)
    dims = params.matryoshka.descending or [model.dims]
    matryoshka = Matryoshka.of(params.matryoshka.dims or dims, params.matryoshka.reduction, params.matryoshka.weights)
    phases = [
        *(_distillation(session, params, lang, teachers[lang], tokens, model.dims, matryoshka) for lang in distilled),
        *contrast(session, params, tokens, distilled, matryoshka),
    ]
    log = session.train(session.trainee(model), tokens, phases, checkpoints, start, selection)

    if session.world.main:
        save_model(model, ctx.outputs["output"], _config(params, dims, session))
        write_losses(ctx.outputs["loss"], log)
        write_dev(ctx.outputs["dev"], selection)
        metrics = {
            "records": len(corpus.table),
            "texts": len(tokens),
            "tokens": count,
            "vocabulary": tokenizer.get_vocab_size(),
            "steps": log.steps,
            "loss": final_losses(log),
            **learned_values(one for phase in phases for one in phase.objectives),
            **({"dev": selection.summary()} if selection else {}),
        }
        write_metrics(ctx.outputs["metrics"], metrics)
    session.end(checkpoints)


def shared(params: PretrainParams) -> dict[str, int]:
    """What the processes share out evenly, by key."""
    phases = {"contrastive": ("contrast",), "distill": ("distill",), "both": ("distill", "contrast"), "none": ()}
    counted = phases[params.objective] if params.schedule.batch_tokens is None else ()
    return {f"{phase}.batch_size": getattr(params, phase).batch_size for phase in counted}


def _config(params: PretrainParams, dims: Sequence[int], session: Session) -> dict[str, Any]:
    """What the model's folder says beside its modules: for those who use it, and for fine-tuning."""
    base = {"base": params.model.name} if params.model.name else {}
    sides = {} if isinstance(params.max_tokens, int) else {"max_tokens": params.max_tokens.model_dump()}
    training = {**session.corpus.provenance(), **base}
    return {"matryoshka_dims": list(dims), "training": training, **prompts_of(params).config(), **sides}


def open_teachers(params: PretrainParams, languages: Mapping[str, int]) -> dict[str, Encoder]:
    """The teachers of languages that have records: all for a static model, else those that are distilled."""
    wanted = [lang for lang in languages if lang in params.teachers]
    if params.model.type == "transformer":
        distils = params.objective in ("distill", "both")
        wanted = [lang for lang in wanted if distils and lang in params.distill.languages]
    return {lang: open_encoder(params.teachers[lang]) for lang in wanted}


def distilled_languages(params: PretrainParams, languages: Mapping[str, int], teachers: Mapping[str, Any]) -> list[str]:
    """The languages that are to be distilled, have records, and have a teacher."""
    if params.objective in ("contrastive", "none"):
        return []
    distilled = [lang for lang in params.distill.languages if lang in teachers]
    if params.objective == "distill" and not distilled:
        there = ", ".join(languages) or "none"
        raise UsageError(
            f"pretrain.distill.languages: no records with a teacher in {', '.join(params.distill.languages)} "
            f"(languages of the records: {there}); add a language, or set pretrain.objective to contrastive"
        )
    return distilled


def _distillation(
    session: Session,
    params: PretrainParams,
    lang: str,
    teacher: Encoder,
    tokens: SidedTokens,
    dims: int,
    matryoshka: Matryoshka,
) -> Phase:
    """The phase that regresses the texts of one language onto their teacher's vectors."""
    ctx, texts = session.ctx, session.corpus.texts_of_language(lang)
    with session.made_once(), ctx.progress(f"teacher {teacher.name}", len(texts), "texts") as bar:
        vector_NE = encode_cached(teacher, texts, TEACHER_CACHE, ctx.workers, bar.advance)
    objective = Distillation(
        tokens.rows_of(texts), principal_axes(vector_NE, dims, ctx.seed), params.distill.batch_size, matryoshka
    )
    return Phase(f"distil {lang}", [objective], params.distill.epochs, session.optimiser(params.distill.lr), ctx.seed)


def contrast(
    session: Session, params: PretrainParams, tokens: SidedTokens, distilled: Sequence[str], matryoshka: Matryoshka
) -> list[Phase]:
    """The contrastive phase, if there are retrieval pairs for it.

    What a language has learned from its teacher would not survive the learning rate that contrast from scratch needs,
    so the pairs of a distilled language wait for fine-tuning.
    """
    rows = session.corpus.retrieval(tokens, distilled)
    if params.objective in ("distill", "none") or not len(rows.query):
        return []
    objective = session.retrieval(params.contrast, "pretrain.contrast", rows, rows.negatives, matryoshka)
    wanted = params.schedule
    counted = tokens if wanted.batch_tokens is not None else None
    objective.task = rows.task(params.contrast.batch_size, counted)
    optimiser = session.optimiser(params.contrast.lr)
    schedule = Schedule(batch_tokens=wanted.batch_tokens, same_source=wanted.same_source, section="pretrain")
    return [Phase("contrast", [objective], params.contrast.epochs, optimiser, session.ctx.seed, schedule)]
