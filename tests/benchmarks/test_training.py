"""The training benchmark's parts on small tasks: they run, and they compare like with like."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from benchmarks import encoding, measure, plan, static, training
from benchmarks.measure import README, Taken


@pytest.mark.parametrize("part", training.PARTS)
def test_every_part_can_run_and_has_its_place(part: str) -> None:
    assert callable(importlib.import_module(f"benchmarks.{training.PARTS[part]}").run)
    assert f"<!-- {part} -->" in README.read_text(encoding="utf-8")


def test_both_sides_train_the_same_model_on_the_same_loss() -> None:
    result = static.measure(static.Shape(batch=24, batches=2, dims=(8, 16), repeats=1, curve_steps=4))
    assert result.values["apart"][static.OURS] < 1e-5
    assert result.values["apart"]["embedmill, bf16"] < 3e-2
    ours, exact = (np.array(result.values["curves"][name]) for name in (static.OURS, static.PEER))
    assert exact[-1] < exact[0]
    np.testing.assert_allclose(ours, exact, rtol=1e-5)


def test_both_sides_encode_alike() -> None:
    result = encoding.measure(encoding.Shape(count=60, dims=16, repeats=1))
    assert max(result.values[lang]["apart"] for lang in ("en", "zh")) < 1e-6


def test_short_texts_are_distinct_and_always_the_same() -> None:
    some = encoding.short_texts("zh", 500)
    assert len(set(some)) == 500
    assert some == encoding.short_texts("zh", 500)


def test_turns_leave_out_the_first() -> None:
    clock = iter([Taken(9.0, 9.0), Taken(1.0, 2.0), Taken(3.0, 4.0), Taken(2.0, 3.0)])
    assert measure.in_turns({"one": lambda: next(clock)}, 3) == {"one": Taken(2.0, 3.0)}


@pytest.mark.parametrize("kind", ["unique", "twice", "few"])
def test_both_sides_fill_as_many_batches(kind: str) -> None:
    texts = plan.rows_of(kind, 4000)
    assert plan.ours(texts, 32) == plan.theirs(texts, 32) == 125
