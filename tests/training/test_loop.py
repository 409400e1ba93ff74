"""The loop: the same numbers as plain PyTorch, the same bytes after an interruption."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from components.core.errors import InputError, Interrupted
from components.training.checkpoint import Cadence, Checkpoints, State
from components.training.corpus import ABSENT
from components.training.devset import Selection
from components.training.engine import Optimiser
from components.training.history import Logged
from components.training.loop import Phase, Run, train
from components.training.losses import class_contrast, cosent, info_nce, matryoshka
from components.training.model import StaticModel
from components.training.monitor import Monitor
from components.training.objectives import ClassContrast, Distillation, Matryoshka, Retrieval, Similarity
from components.training.tokens import SidedTokens, Texts, TokenStore
from components.training.trainee import StaticTrainee

Pairs = tuple[TokenStore, np.ndarray, np.ndarray, int]
DIMS = (4, 8)
MATRYOSHKA = Matryoshka.of(DIMS, "mean")


def start_model(vocabulary: int, seed: int = 0) -> StaticModel:
    torch.manual_seed(seed)
    return StaticModel(Tokenizer(models.BPE()), torch.randn(vocabulary, max(DIMS)))


def retrieval(pairs: Pairs, negatives: int = 1) -> Retrieval:
    _, query, passage, _ = pairs
    negative = np.stack([np.roll(passage, shift + 1) for shift in range(negatives)], axis=1)
    negative[3] = ABSENT
    return Retrieval(query, passage, negative, np.ones(len(query), np.int64), 16, 20.0, MATRYOSHKA, bf16=False)


def phases(pairs: Pairs, lr: float = 0.05) -> list[Phase]:
    _store, query, passage, _ = pairs
    target = np.random.default_rng(0).standard_normal((len(query), 4)).astype(np.float32)
    distillation = Distillation(query, target, 32, Matryoshka.of((4,), "mean"))
    once = np.ones(80, np.int64)
    similarity = Similarity(query, np.roll(passage, 1), np.arange(80) % 3 / 2.0, once, 20, 20.0, MATRYOSHKA, 0.5)
    label, other = query[np.arange(80) % 7], np.stack([query[(np.arange(80) + 1) % 7], np.full(80, ABSENT)], axis=1)
    classes = ClassContrast(passage, label, other, once, 20, 20.0, MATRYOSHKA, 0.2)
    optimiser = Optimiser(lr, warmup=0.2)
    return [
        Phase("first", [distillation], 2, optimiser, 3),
        Phase("second", [retrieval(pairs), similarity, classes], 2, optimiser, 3),
    ]


def run(pairs: Pairs, folder: Path, every: int = 1000, lr: float = 0.05) -> tuple[StaticModel, list[Logged]]:
    """Train, going on from a checkpoint in ``folder`` if there is one."""
    checkpoints = Checkpoints(folder, "run")
    start = checkpoints.latest()
    model = start_model(pairs[3])
    if start:
        model.weight_VD = start.tensors["weight"]
    log = train(
        StaticTrainee(model.weight_VD),
        SidedTokens.same(pairs[0]),
        phases(pairs, lr),
        Run(checkpoints, Cadence(every), start),
    )
    return model, list(log)


def test_training_equals_autograd_and_plain_adamw(pair_store: Pairs, tmp_path: Path) -> None:
    store, _query, _passage, vocabulary = pair_store
    objective = retrieval(pair_store)
    phase = Phase("contrast", [objective], 2, Optimiser(0.05, 0.2), 3)
    model = start_model(vocabulary)
    checkpoints = Checkpoints(tmp_path, "run")
    log = train(StaticTrainee(model.weight_VD), SidedTokens.same(store), [phase], Run(checkpoints, Cadence()))

    weight = torch.nn.Parameter(start_model(vocabulary).weight_VD)
    adamw = torch.optim.AdamW([weight], weight_decay=0.0, fused=False)
    for step, turn in enumerate(phase.steps):
        (batch,) = phase.plan.batches(*turn)
        rows = batch.rows
        bags = store.bags(objective.texts(rows).rows)
        offsets = torch.from_numpy(bags.offsets[:-1])
        embedding = torch.nn.functional.embedding_bag(
            torch.from_numpy(bags.tokens).long(), weight, offsets, mode="mean"
        )
        parts = embedding[: len(rows)], embedding[len(rows) :]
        loss = matryoshka(lambda *part: info_nce(*part, scale=20.0), parts, DIMS)
        adamw.param_groups[0]["lr"] = phase.optimiser.rate(step, len(phase.steps))
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        assert log[step].loss == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(model.weight_VD, weight.detach(), rtol=2e-4, atol=2e-5)


def test_loss_of_a_fixed_run_stays_what_it_was(pair_store: Pairs, tmp_path: Path) -> None:
    _, log = run(pair_store, tmp_path)
    last = {row.task: row for row in log}
    golden = {"distill": 0.945177, "retri_contrast": 2.226486, "cosent": 7.466742, "cls_contrast": 0.339111}
    assert {task: last[task].loss for task in golden} == pytest.approx(golden, rel=1e-4)


@pytest.mark.parametrize("stop", [1, 5, 6, 12])
def test_resumed_run_ends_with_the_same_bytes(
    pair_store: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    undisturbed, log = run(pair_store, tmp_path / "undisturbed")
    start = Checkpoints.start

    def start_and_fail(self: Checkpoints, step: int, state: State, best: int | None) -> None:
        start(self, step, state, best)
        if step >= stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "start", start_and_fail)
        run(pair_store, tmp_path / "stopped", every=stop)
    resumed, resumed_log = run(pair_store, tmp_path / "stopped")
    assert torch.equal(resumed.weight_VD, undisturbed.weight_VD)
    assert resumed_log == log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_the_state_and_interrupts(pair_store: Pairs, tmp_path: Path, number: signal.Signals) -> None:
    def curves(step: int, figures: object) -> None:
        if step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    trainee, tokens = StaticTrainee(start_model(pair_store[3]).weight_VD), SidedTokens.same(pair_store[0])
    watched = Run(Checkpoints(tmp_path, "run"), Cadence(), monitor=Monitor(curves=curves))
    with pytest.raises(Interrupted, match="after step 4"):
        train(trainee, tokens, phases(pair_store), watched)
    assert signal.getsignal(number) == before
    undisturbed, _ = run(pair_store, tmp_path / "undisturbed")
    resumed, _ = run(pair_store, tmp_path)
    assert torch.equal(resumed.weight_VD, undisturbed.weight_VD)


def test_loss_that_is_no_number_stops_with_step_and_task(pair_store: Pairs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"step \d+, \w+ \(row \d+, row \d+, row \d+ …\): the loss is nan"):
        run(pair_store, tmp_path, lr=1e38)


@pytest.mark.parametrize("every", [1, 1000])
def test_weights_that_are_no_numbers_are_neither_saved_nor_handed_on(
    pair_store: Pairs, tmp_path: Path, every: int
) -> None:
    store, query, _, vocabulary = pair_store
    target = np.random.default_rng(0).standard_normal((len(query), 4)).astype(np.float32)
    one_step = Distillation(query, target, len(query), Matryoshka.of((4,), "mean"))
    phase = Phase("only", [one_step], 1, Optimiser(1e39, warmup=0.2), 3)  # a rate beyond fp32
    checkpoints, model = Checkpoints(tmp_path, "run"), start_model(vocabulary)
    trainee, tokens = StaticTrainee(model.weight_VD), SidedTokens.same(store)
    with pytest.raises(InputError, match="step 0: a weight is no longer a finite number"):
        train(trainee, tokens, [phase], Run(checkpoints, Cadence(every)))
    assert checkpoints.latest() is None


def test_learning_rate_rises_then_falls_to_the_last_step() -> None:
    optimiser = Optimiser(1.0, warmup=0.2)
    rates = [optimiser.rate(step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, pytest.approx(8 / 9)]
    assert rates[-1] == pytest.approx(1 / 9)
    assert Optimiser(1.0, warmup=0.0).rate(0, 1) == 1.0


def test_task_losses_are_the_definitions_times_their_weight(pair_store: Pairs) -> None:
    query = pair_store[1]
    _, second = phases(pair_store)
    _, similarity, classes = second.objectives
    rows = np.arange(12)
    embedding = torch.randn(len(similarity.texts(rows)), max(DIMS))
    label = torch.arange(12) % 3 / 2.0
    expected = matryoshka(lambda *part: cosent(*part, label, 20.0), (embedding[:12], embedding[12:]), DIMS) * 0.5
    assert similarity.loss(embedding, rows, slice(0, 12))[0] == pytest.approx(expected.item(), rel=1e-5)

    texts = classes.texts(rows).rows
    embedding = torch.randn(len(texts), max(DIMS))
    place = {int(row): index for index, row in enumerate(texts[12:], 12)}
    own = torch.stack([embedding[place[int(query[row % 7])]] for row in rows])
    other = torch.stack([embedding[place[int(query[(row + 1) % 7])]] for row in rows])
    stacked = torch.stack([own, other], dim=1)
    expected = matryoshka(lambda *part: class_contrast(*part, scale=20.0), (embedding[:12], stacked), DIMS) * 0.2
    assert classes.loss(embedding, rows, slice(0, 12))[0] == pytest.approx(expected.item(), rel=1e-5)


def with_dev(pairs: Pairs, folder: Path, values: list[float], patience: int | None = None) -> tuple[StaticModel, Run]:
    """A run that measures every third step, and what it is given to measure with: ``values``, one after the other."""
    checkpoints = Checkpoints(folder, "run")
    start = checkpoints.latest()

    class Given:
        names = ("given",)
        tokens = SidedTokens.same(pairs[0])

        def measure(self, vectors: Callable[[Texts], np.ndarray]) -> dict[str, float]:
            texts = Texts.of(np.arange(5), 0)
            assert vectors(texts).shape == (5, max(DIMS))
            return {"given": values[len(selection.measured)]}

    selection = Selection(Given(), 3, patience)
    return start_model(pairs[3]), Run(checkpoints, Cadence(5), start, selection)


def trained(pairs: Pairs, model: StaticModel, run: Run) -> list[Logged]:
    return list(train(StaticTrainee(model.weight_VD), SidedTokens.same(pairs[0]), phases(pairs), run))


def test_the_best_weights_are_the_result(pair_store: Pairs, tmp_path: Path) -> None:
    stopped, watched = with_dev(pair_store, tmp_path / "stopped", [1.0, 2.0, 9.0, *[0.0] * 20])
    log = trained(pair_store, stopped, watched)
    assert watched.selection is not None
    assert watched.selection.best == 9
    assert log[-1].step + 1 > 9

    at_nine = watched.checkpoints.read(9)
    assert torch.equal(stopped.weight_VD, at_nine.tensors["weight"])
    last, unwatched = start_model(pair_store[3]), Run(Checkpoints(tmp_path / "last", "run"), Cadence())
    assert trained(pair_store, last, unwatched) == log
    assert not torch.equal(stopped.weight_VD, last.weight_VD)


def test_training_ends_when_patience_does_and_an_interruption_changes_nothing(
    pair_store: Pairs, tmp_path: Path
) -> None:
    values = [1.0, 2.0, 1.0, 1.5, 9.0]
    undisturbed, watched = with_dev(pair_store, tmp_path / "undisturbed", values, patience=2)
    log = trained(pair_store, undisturbed, watched)
    assert (log[-1].step, watched.selection.best) == (11, 6)

    for stop in (2, 6, 10, 12):
        folder = tmp_path / f"stopped-{stop}"
        model, run = with_dev(pair_store, folder, values, patience=2)

        def kill(step: int, figures: object, stop: int = stop) -> None:
            if step + 1 == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(pair_store, model, replace(run, monitor=Monitor(curves=kill)))
        model, run = with_dev(pair_store, folder, values, patience=2)
        assert trained(pair_store, model, run) == log
        assert torch.equal(model.weight_VD, undisturbed.weight_VD)
        assert run.selection.measured == watched.selection.measured


def test_the_log_of_a_step_has_what_it_cost(pair_store: Pairs, tmp_path: Path) -> None:
    store, query, *_ = pair_store
    _, log = run(pair_store, tmp_path)
    first_phase, _ = phases(pair_store)
    (batch,) = first_phase.plan.batches(0, 0)
    assert log[0].tokens == int(store.lengths(query[batch.rows]).sum())
    assert log[0].norm is None
