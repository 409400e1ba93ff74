"""The training benchmark's parts on small tasks: they run, and they compare like with like."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablation, encoding, measure, memory, overhead, packing, parity, plan, static, summary, training
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


# FlagEmbedding is in the peers' environment only; tests/training/test_parity.py has its definition
@pytest.mark.parametrize("case", [case for case in parity.CASES if case != parity.FLAG])
def test_losses_are_those_of_others(case: str) -> None:
    (loss, gradient), (other_loss, other_gradient) = parity.CASES[case]()
    assert loss == pytest.approx(other_loss, rel=parity.BOUND)
    assert (gradient - other_gradient).norm() <= parity.BOUND * other_gradient.norm()


def test_dynamic_mining_is_metered() -> None:
    result = overhead.measure(overhead.Shape(batch=16, pairs=64, dims=(8, 16), epochs=5, check_every=5))
    assert 0 < result.values["share"] < 1
    assert set(result.values["spent"]) == {"places", "__init__", "see", "finish", "observe", "finish_step"}


def test_a_meter_counts_once_and_leaves_out_what_is_put_aside() -> None:
    meter = overhead.Meter()
    spin = meter.around("inner", lambda: sum(range(200_000)))
    aside = meter.aside(lambda: sum(range(2_000_000)))
    meter.around("outer", lambda: (spin(), aside()))()
    spin()
    assert meter.spent.keys() == {"outer", "inner"}
    assert meter.spent["outer"] < 5 * meter.spent["inner"]


def test_static_memory_is_that_of_the_process() -> None:
    assert 2**27 < memory.static_peak(500, (8, 16), 2) < 2**32


def test_variants_of_the_ablation_have_equal_steps() -> None:
    rows = {"retri_contrast": 10_000, "cosent": 30_000}
    study = ablation.Study()
    for dynamic, roles in ablation.VARIANTS.values():
        found = ablation.settings(study, rows, dynamic, roles)
        batches = found["retrieval.batch_size"], found["similarity.batch_size"]
        counts = [size / batch for size, batch in zip(rows.values(), batches, strict=True)]
        steps = max(counts) if roles else sum(counts)
        assert steps == pytest.approx(10_000 / 256 + 30_000 / 256, rel=0.02)
        assert (found["mining.dynamic"] is not None) == dynamic


def test_a_finished_cell_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, settings = ablation.Study(tmp_path), {"retrieval.batch_size": 4}
    study.cells.mkdir()
    done = {"settings": settings, "scores": {"csl": 50.0}}
    (study.cells / "cbb-dhnm-2.json").write_text(json.dumps(done), encoding="utf-8")
    monkeypatch.setattr(ablation.subprocess, "run", None)
    assert ablation.cell(study, "CBB + DHNM", settings, 2) == done
    with pytest.raises(TypeError):  # other settings: another cell
        ablation.cell(study, "CBB + DHNM", {"retrieval.batch_size": 8}, 2)


def test_figures_of_training_are_read_from_the_parts() -> None:
    ratio = {"wall": 4.5, "cpu": 4.0}
    what = ("step fp32", "step bf16", "pass fp32")
    found = {
        "parity": {"largest": 2.6e-6},
        "static": {
            "cores": 2,
            "ratios": {f"{name}, {threads} threads": ratio for name in what for threads in (1, 2)},
            "apart": {static.OURS: 3e-7},
        },
        "encode": {lang: {"ratios": ratio} for lang in ("en", "zh")},
        "encoder": {"seconds": {packing.OURS: 1.0, packing.PADDED: 4.0, packing.SORTED: 1.5, packing.FLAG: 4.2}},
        "memory": {"gradcache_ratio": 1.1, "static_bytes": 7 * 2**30},
        "overhead": {"share": 0.0123},
        "ablation": {"CBB + DHNM": {"means": {"all": [51.0, 52.0]}}, "vanilla": {"means": {"all": [50.0]}}},
    }
    assert [value(found[part]) for part, _, value, _ in summary.TRAINING_ROWS] == [
        *("3e-06", "4.5× (4×)", "4.5× (4×)", "4.5× (4×)", "3e-07", "4.5× / 4.5×", "4×", "1.5×", "4.2×"),
        *("1.1", "7", "1.2%", "+1.50"),
    ]
