"""What pretrain and finetune do alike: processes, records, tokens, checkpoints, measuring, and who may write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core import environment
from components.core.errors import UsageError
from components.core.fingerprint import code_digest, digest_bytes, digest_json
from components.core.prompts import Prompts
from components.core.step import Context
from components.core.suite import load_suite
from components.training.checkpoint import Cadence, Checkpoints, State
from components.training.corpus import ABSENT, Corpus, RetrievalRows, Rows, read_corpus
from components.training.curves import Curves
from components.training.devset import DevSet, Selection, dev_tasks
from components.training.distributed import World
from components.training.dynamic import HardNegatives
from components.training.encoder import open_encoder
from components.training.engine import Optimiser, check_zero, open_engine, put
from components.training.guide import Guide
from components.training.history import History, losses_csv
from components.training.lanes import use_threads
from components.training.loop import Phase, Run, train
from components.training.losses import Terms
from components.training.model import Model, StaticModel
from components.training.monitor import Monitor, peak_flops
from components.training.objectives import Matryoshka, Retrieval, ScoreDistillation
from components.training.plan import check_world
from components.training.settings import (
    CHECKPOINTS,
    GuideParams,
    MaxTokens,
    RetrievalParams,
    SideTokens,
    TrainingParams,
    longest,
    side_limits,
)
from components.training.tokens import PASSAGE, QUERY, SYMMETRIC, Reading, SidedTokens
from components.training.trainee import Trainee
from components.training.transformer import Passes, TransformerModel

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

WORK = Path(".embedmill")
NO_LIMIT = 1 << 30  # tokens of a text that nothing cuts

Readings = Mapping[int, Reading]


def readings(prompts: Prompts, limit: MaxTokens, special: bool) -> Readings:
    """How each side reads texts; ``special``: with a transformer's special tokens."""
    query, passage = side_limits(limit)
    return {
        QUERY: Reading(prompts.query, query, special),
        PASSAGE: Reading(prompts.passage, passage, special),
        SYMMETRIC: Reading(prompts.symmetric, passage, special),
    }


def token_limit(model: Model, config: Mapping[str, Any]) -> MaxTokens:
    """The limits that a model was trained with; `NO_LIMIT` for a tokenizer that does not cut."""
    if "max_tokens" in config:
        return SideTokens(**config["max_tokens"])
    if isinstance(model, TransformerModel):
        return model.max_tokens
    cut = model.tokenizer.truncation
    return int(cut["max_length"]) if cut else NO_LIMIT


def limit_tokens(model: Model, limit: MaxTokens, key: str) -> None:
    """Let the model's own tokenizer cut at the limit. Raises UsageError, naming ``key``, if it has fewer positions."""
    tokens = longest(limit)
    if isinstance(model, TransformerModel):
        if tokens > model.capacity:
            raise UsageError(
                f"{key}: {tokens} tokens, but the model has {model.capacity} positions; allowed: up to "
                f"{model.capacity}, or more positions by pretrain.model.positions"
            )
        model.limit_tokens(tokens)
    elif tokens != NO_LIMIT:
        model.tokenizer.enable_truncation(tokens)


@dataclass
class Session:
    """One run of a training step: its parameters, its processes, its records and those kept out to measure on."""

    ctx: Context
    params: TrainingParams
    world: World
    corpus: Corpus
    kept_out: pa.Table | None

    @classmethod
    def open(cls, ctx: Context, params: TrainingParams, shared: Mapping[str, int]) -> Session:
        """Read the records at the port ``input``; join the other processes, if there are any.

        ``shared``: what processes share out evenly, by key. Raises UsageError where their number does not divide it.
        """
        processes = environment.processes()
        for key, count in shared.items():
            if count % processes:
                raise UsageError(
                    f"{ctx.step}.{key}: {count} does not divide among {processes} processes; "
                    f"allowed: multiples of {processes}"
                )
        use_threads(ctx.threads)
        corpus, kept_out = read_corpus(ctx.inputs["input"]), None
        world = World.from_environment()
        if params.dev is not None and params.dev.rows:
            corpus, kept_out = corpus.split_dev(params.dev.rows, ctx.seed)
        return cls(ctx, params, world, corpus, kept_out)

    def tokens(self, tokenizer: Tokenizer, how: Readings, distilled: Sequence[str] = ()) -> SidedTokens:
        """The tokens of all texts, made where they are not there yet; see `Corpus.sided`."""
        with self.made_once(), self.ctx.progress("tokenise", len(self.corpus.text_ids), "texts") as bar:
            return self.corpus.sided(tokenizer, WORK / "cache" / "tokens", how, distilled, bar.advance)

    @contextmanager
    def made_once(self) -> Iterator[None]:
        """The first process goes through the body and makes what is not there yet; then the others do and find it.

        Where checkpoints have a mirror, machines need share no folder: the first process of each is the first one.
        """
        first = self.world.main if self._mirror is None else self.world.local == 0
        if not first:
            self.world.barrier()
        yield
        if first:
            self.world.barrier()

    @property
    def _mirror(self) -> str | None:
        return self.ctx.outputs.get(CHECKPOINTS.name)

    def checkpoints(self, made_from: Sequence[Any]) -> tuple[Checkpoints, State | None]:
        """The checkpoints of a run on these parameters, records and whatever else it is made from, and the last one."""
        import torch

        origin = [
            self.params.model_dump(mode="json"),
            [self.ctx.seed, self.corpus.digest, torch.__version__],
            list(made_from),
            code_digest("components.core", "components.training", f"components.{self.ctx.step}"),
        ]
        folder = WORK / "checkpoints" / self.ctx.step
        checkpoints = Checkpoints(
            folder, digest_json(origin), self.params.checkpoint.keep, self.world, self._mirror, self.ctx.log
        )
        start = checkpoints.latest()
        if start:
            self.ctx.log(f"goes on after step {History.of(start).steps}")
        return checkpoints, start

    def selection(self, tokenizer: Tokenizer, how: Readings) -> Selection | None:
        """What is measured during training, if anything is."""
        dev = self.params.dev
        if dev is None:
            return None
        tasks = dev_tasks(self.kept_out, self.corpus.table) if self.kept_out is not None else []
        tasks += load_suite(dev.suite, None)
        with self.made_once():
            devset = DevSet.read(tasks, tokenizer, how, WORK / "cache" / "dev")
        return Selection(devset, dev.every, dev.patience, dev.metric)

    def trainee(self, model: Model) -> Trainee:
        """The model as the loop trains it, on this process's device."""
        params = self.params
        if isinstance(model, StaticModel) and params.precision == "fp16":
            raise UsageError(f"{self.ctx.step}.precision: fp16 is for transformers on a GPU; allowed here: fp32, bf16")
        if params.precision == "fp16" and self.world.device.type == "cpu":
            self.ctx.log("precision fp16 on a CPU only imitates a GPU, many times slower than fp32 or bf16")
        passes = Passes(
            params.chunk_tokens,
            params.precision,
            params.gradient_checkpointing,
            params.freeze_positions,
            self.ctx.threads,
        )
        if isinstance(model, TransformerModel):
            model.to(self.world.device)
        trainee = model.trainee(passes)
        if self.world.size > 1:  # machines of different kinds may have started with other last bits
            put(trainee.parameters, self.world.broadcast_tensors(trainee.parameters))
        check_zero(trainee, params.zero, f"{self.ctx.step}.zero")
        return trainee

    def retrieval(
        self,
        wanted: RetrievalParams,
        key: str,
        pairs: RetrievalRows,
        negatives: Rows | HardNegatives,
        matryoshka: Matryoshka,
    ) -> Retrieval:
        """The objective of these pairs; ``key`` is where ``wanted`` stands in params.yaml.

        Raises UsageError if there is nothing that a query could be told apart from, or no teacher's score.
        """
        terms = Terms(wanted.in_batch, wanted.query_query, wanted.passage_passage, wanted.symmetric)
        mined = isinstance(negatives, HardNegatives) or bool((negatives != ABSENT).any())
        if len(pairs.query) and not (mined or any((terms.in_batch, terms.joint, terms.symmetric))):
            raise UsageError(
                f"{key}.in_batch: false leaves no negatives, for the records name none (text_neg) and none are mined"
            )
        distill = None
        if wanted.distill is not None and len(pairs.query):
            given = wanted.distill
            distill = ScoreDistillation.of(pairs, given.kind, given.weight, given.temperature, f"{key}.distill")
        return Retrieval(
            pairs.query,
            pairs.positive,
            negatives,
            pairs.repeat,
            wanted.batch_size,
            1 / wanted.temperature,
            matryoshka,
            self.params.precision == "bf16",
            terms,
            wanted.learn_temperature,
            self._guide(wanted.guide, pairs) if wanted.guide is not None else None,
            distill,
        )

    def _guide(self, wanted: GuideParams, pairs: RetrievalRows) -> Guide:
        """The guide's vectors of the pairs' texts, made where they are not there yet."""
        rows = np.unique(np.concatenate([pairs.query, pairs.positive, pairs.negatives[pairs.negatives != ABSENT]]))
        encoder = open_encoder(wanted.model)
        with self.made_once(), self.ctx.progress(f"guide {encoder.name}", len(rows), "texts") as bar:
            texts = self.corpus.texts(rows)
            return Guide.of(encoder, texts, rows, wanted.kind, wanted.margin, self.ctx.workers, bar.advance)

    def optimiser(self, lr: float) -> Optimiser:
        """AdamW at this peak rate."""
        return Optimiser(lr, self.params.warmup, self.params.weight_decay, clip=self.params.clip)

    def train(
        self,
        trainee: Trainee,
        tokens: SidedTokens,
        phases: Sequence[Phase],
        checkpoints: Checkpoints,
        start: State | None,
        selection: Selection | None = None,
    ) -> History:
        """Train to the end, or go on to it. Raises UsageError if the processes cannot share the steps evenly."""
        for phase in phases:
            check_world(phase.plan, self.world.size)
        cadence = Cadence(self.params.checkpoint.steps, self.params.checkpoint.minutes)
        engine = partial(open_engine, zero=self.params.zero, fp16=self.params.precision == "fp16")
        params, done = self.ctx.parameters.get(self.ctx.step, {}), History.of(start).steps
        with (
            Curves(self.ctx.step, checkpoints.fingerprint, params, self.ctx.log, done) as curves,
            self._monitor(trainee, curves) as monitor,
        ):
            run = Run(checkpoints, cadence, start, selection, monitor, self.world, engine)
            log = train(trainee, tokens, phases, run)
            curves.finish(digest_bytes(losses_csv(log)))
        return log

    def end(self, checkpoints: Checkpoints) -> None:
        """The outputs are written: nothing is left to go on from, and no one to wait for."""
        self.world.barrier()
        if self.world.main:
            checkpoints.clear()
        self.world.close()

    def _monitor(self, trainee: Trainee, curves: Curves) -> Monitor:
        import torch

        flops, peak = getattr(trainee, "flops", None), None
        if trainee.device.type == "cuda":
            each = peak_flops(torch.cuda.get_device_name(trainee.device), self.params.precision != "fp32")
            peak = each * self.world.size if each is not None else None
        return Monitor(self.ctx.step, self.ctx.log, flops, peak, curves.add)
