"""Dynamic mining in the loop: negatives are replaced while the model learns, and a resumed run ends the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from components.training.checkpoint import Cadence, Checkpoints, State
from components.training.dynamic import HardNegatives, Pool, Rule, vectors_of, write_negatives
from components.training.engine import Optimiser
from components.training.history import History
from components.training.lanes import use_threads
from components.training.loop import Phase, Run, train
from components.training.mining import Window
from components.training.objectives import Matryoshka, Retrieval, places
from components.training.tokens import SidedTokens, TokenStore
from components.training.trainee import StaticTrainee

Pairs = tuple[TokenStore, np.ndarray, np.ndarray, int]
DIMS = (4, 8)
# so eager that a few dozen steps hold everything: replacements, lists used up, minings
EAGER = Rule(check_every=3, ratio=1.01, ceiling=1.0, offset=2)


def run(pairs: Pairs, folder: Path, rule: Rule | None = EAGER) -> tuple[torch.Tensor, History, HardNegatives]:
    """Train, going on from a checkpoint in ``folder`` if there is one."""
    store, query, passage, vocabulary = pairs
    tokens = SidedTokens.same(store)
    start = Checkpoints(folder, "run").latest()
    torch.manual_seed(0)
    trainee = StaticTrainee(torch.randn(vocabulary, max(DIMS)))
    negatives = HardNegatives(Pool(query, passage, np.unique(passage), Window(0, 8, 0.999), max(DIMS)), 2, rule)
    if not start:
        negatives.begin(vectors_of(trainee.vectors, tokens))
    once = np.ones(len(query), np.int64)
    objective = Retrieval(query, passage, negatives, once, 16, 20.0, Matryoshka.of(DIMS, "mean"), False)
    phase = Phase("finetune", [objective], 8, Optimiser(0.05, 0.2), 3)
    log = train(trainee, tokens, [phase], Run(Checkpoints(folder, "run"), Cadence(), start))
    return trainee.parameters["weight"], log, negatives


def test_negatives_are_replaced_and_change_what_is_learned(pair_store: Pairs, tmp_path: Path) -> None:
    standard, _, still = run(pair_store, tmp_path / "standard", None)
    dynamic, log, moved = run(pair_store, tmp_path / "dynamic")
    figures = moved.figures()
    assert figures["replaced_in_all"] > 50
    assert figures["minings"] > 1
    assert still.figures()["replaced_in_all"] == 0
    assert not torch.equal(standard, dynamic)
    write_negatives(str(tmp_path / "negatives.csv"), moved)
    lines = (tmp_path / "negatives.csv").read_text().splitlines()
    assert len(lines) == 1 + log.steps


@pytest.mark.parametrize("stop", [2, 6, 10, 13, 21])
def test_a_resumed_run_ends_with_the_same_bytes(
    pair_store: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    weight, log, negatives = run(pair_store, tmp_path / "undisturbed")
    start = Checkpoints.start

    def start_and_fail(self: Checkpoints, step: int, state: State, best: int | None) -> None:
        start(self, step, state, best)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Cadence, "due", lambda self, done: done == stop)
        patch.setattr(Checkpoints, "start", start_and_fail)
        run(pair_store, tmp_path / "stopped")
    resumed, resumed_log, resumed_negatives = run(pair_store, tmp_path / "stopped")
    assert torch.equal(resumed, weight)
    assert list(resumed_log) == list(log)
    for name, tensor in negatives.state().items():
        np.testing.assert_array_equal(resumed_negatives.state()[name].numpy(), tensor.numpy())


def test_threads_change_no_byte(pair_store: Pairs, tmp_path: Path) -> None:
    weights = []
    for threads in (1, 2):
        use_threads(threads)
        weights.append(run(pair_store, tmp_path / str(threads))[0])
    use_threads(1)
    assert torch.equal(*weights)


def test_scores_are_the_cosines_of_the_step(pair_store: Pairs) -> None:
    _, query, passage, _ = pair_store
    pool = Pool(query, passage, np.unique(passage), Window(0, 8, 9.0), 4)
    negatives = HardNegatives(pool, 2, EAGER)
    negatives.begin(lambda rows, side, dims: np.eye(len(rows), 4, dtype=np.float32) + 0.5)
    once = np.ones(len(query), np.int64)
    objective = Retrieval(query, passage, negatives, once, 16, 20.0, Matryoshka.of(DIMS, "mean"), False)
    rows = np.array([5, 2, 40])
    texts = objective.texts(rows).rows
    torch.manual_seed(0)
    vector = dict(zip(texts.tolist(), torch.nn.functional.normalize(torch.randn(len(texts), 8), dim=1), strict=True))
    leading = {text: torch.nn.functional.normalize(whole[:4], dim=0) for text, whole in vector.items()}
    objective.loss(torch.stack(list(vector.values())) * 3, rows, slice(0, 3))
    negatives.finish_step(1, lambda: lambda rows, side, dims: np.zeros((len(rows), dims), np.float32))
    expected = [
        np.mean([float(leading[int(query[row])] @ leading[int(text)]) for text in negatives.of(rows)[place]])
        for place, row in enumerate(rows)
    ]
    np.testing.assert_allclose(negatives.state()["score"][rows], expected, rtol=1e-5)


def test_places_find_values_in_any_order() -> None:
    assert places(np.array([7, 3, 9]), np.array([[9, -1], [7, 3]])).tolist() == [[2, -1], [0, 1]]
