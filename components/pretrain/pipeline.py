"""Pretraining: learn the tokens, start the table, distil the teachers, contrast the pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.errors import UsageError
from components.core.fingerprint import code_digest, digest_json
from components.core.step import Context
from components.pretrain.initial import initial_table, principal_axes
from components.pretrain.params import PretrainParams
from components.training.checkpoint import Cadence, Checkpoints
from components.training.corpus import Corpus, read_corpus
from components.training.encoder import Encoder, open_encoder
from components.training.engine import Optimiser
from components.training.history import History, final_losses, write_losses, write_metrics
from components.training.lanes import use_threads
from components.training.loop import Phase, Run, train
from components.training.model import StaticModel, save_model
from components.training.monitor import Monitor
from components.training.objectives import Distillation, Matryoshka, Retrieval
from components.training.settings import longest
from components.training.tokens import SidedTokens
from components.training.trainee import StaticTrainee
from components.training.vectors import TEACHER_CACHE, encode_cached
from components.training.vocabulary import learn_tokenizer, load_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from components.training.tokens import TokenStore

WORK = Path(".embedmill")


def run(ctx: Context) -> None:
    """Run the step."""
    import torch

    params = ctx.section(PretrainParams)
    use_threads(ctx.threads)
    corpus = read_corpus(ctx.inputs["input"])
    tokenizer = _tokenizer(params, corpus)
    store = corpus.tokenised(tokenizer, WORK / "cache" / "tokens")
    ctx.log(f"{len(store):,} distinct texts, {len(store.tokens):,} tokens of {tokenizer.get_vocab_size():,} kinds")

    made_from = [
        params.model_dump(mode="json"),
        [ctx.seed, corpus.digest, tokenizer.to_str(), torch.__version__],
        code_digest("components.core", "components.training", "components.pretrain"),
    ]
    checkpoints = Checkpoints(WORK / "checkpoints" / "pretrain", digest_json(made_from), params.checkpoint.keep)
    start = checkpoints.latest()
    teachers = {lang: open_encoder(params.teachers[lang]) for lang in corpus.languages() if lang in params.teachers}
    distilled = _distilled_languages(params, corpus, teachers)
    phases = [
        *(_distillation(ctx, params, corpus, store, lang, teachers[lang]) for lang in distilled),
        *_contrast(ctx, params, corpus, store, distilled),
    ]
    if start:
        weight_VD = start.tensors["weight"]
        ctx.log(f"goes on after step {History.of(start).steps}")
    else:
        table_VD = initial_table(
            tokenizer, store, params.matryoshka.descending[0], ctx.seed, teachers, params.teacher_share
        )
        weight_VD = torch.from_numpy(table_VD)
    model = StaticModel(tokenizer, weight_VD)
    trainee, tokens = StaticTrainee(weight_VD), SidedTokens.same(store)
    cadence = Cadence(params.checkpoint.steps, params.checkpoint.minutes)
    with Monitor("pretrain", ctx.log) as monitor:
        log = train(trainee, tokens, phases, Run(checkpoints, cadence, start, monitor=monitor))
    config = {"matryoshka_dims": params.matryoshka.descending, "training": corpus.provenance()}
    save_model(model, ctx.outputs["output"], config)
    write_losses(ctx.outputs["loss"], log)
    metrics = {
        "records": len(corpus.table),
        "texts": len(store),
        "tokens": len(store.tokens),
        "vocabulary": tokenizer.get_vocab_size(),
        "steps": log.steps,
        "loss": final_losses(log),
    }
    write_metrics(ctx.outputs["metrics"], metrics)
    checkpoints.clear()


def _tokenizer(params: PretrainParams, corpus: Corpus) -> Tokenizer:
    if params.tokenizer == "train":
        tokenizer = learn_tokenizer(corpus.sample(params.sample_characters), params.vocab_size, params.min_frequency)
    else:
        tokenizer = load_tokenizer(params.tokenizer)
    tokenizer.enable_truncation(longest(params.max_tokens))
    return tokenizer


def _distilled_languages(params: PretrainParams, corpus: Corpus, teachers: dict[str, Encoder]) -> list[str]:
    """The languages that are to be distilled, have records, and have a teacher."""
    if params.objective == "contrastive":
        return []
    languages = [lang for lang in params.distill.languages if lang in teachers]
    if params.objective == "distill" and not languages:
        there = ", ".join(corpus.languages()) or "none"
        raise UsageError(
            f"pretrain.distill.languages: no records with a teacher in {', '.join(params.distill.languages)} "
            f"(languages of the records: {there}); add a language, or set pretrain.objective to contrastive"
        )
    return languages


def _distillation(
    ctx: Context, params: PretrainParams, corpus: Corpus, store: TokenStore, lang: str, teacher: Encoder
) -> Phase:
    """The phase that regresses the texts of one language onto their teacher's vectors."""
    texts = corpus.texts_of_language(lang)
    with ctx.progress(f"teacher {teacher.name}", len(texts), "texts") as bar:
        vector_NE = encode_cached(teacher, texts, TEACHER_CACHE, ctx.workers, bar.advance)
    objective = Distillation(
        store.rows_of(texts),
        principal_axes(vector_NE, params.matryoshka.descending[0], ctx.seed),
        params.distill.batch_size,
        Matryoshka.of(params.matryoshka.descending, params.matryoshka.reduction),
    )
    optimiser = Optimiser(params.distill.lr, params.warmup)
    return Phase(f"distil {lang}", [objective], params.distill.epochs, optimiser, ctx.seed)


def _contrast(
    ctx: Context, params: PretrainParams, corpus: Corpus, store: TokenStore, distilled: Sequence[str]
) -> list[Phase]:
    """The contrastive phase, if there are retrieval pairs for it.

    What a language has learned from its teacher would not survive the learning rate that contrast from scratch needs,
    so the pairs of a distilled language wait for fine-tuning.
    """
    rows = corpus.retrieval(store, distilled)
    if params.objective == "distill" or not len(rows.query):
        return []
    objective = Retrieval(
        rows.query,
        rows.positive,
        rows.negatives,
        rows.repeat,
        params.contrast.batch_size,
        1 / params.contrast.temperature,
        Matryoshka.of(params.matryoshka.descending, params.matryoshka.reduction),
        params.precision == "bf16",
    )
    optimiser = Optimiser(params.contrast.lr, params.warmup)
    return [Phase("contrast", [objective], params.contrast.epochs, optimiser, ctx.seed)]
