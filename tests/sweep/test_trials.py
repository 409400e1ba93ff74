"""The plan of a sweep: which trials, what they are called, and what is refused before anything runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.core.errors import InputError, UsageError
from components.sweep.trials import Trial, decode, lay, plan
from tests.conftest import Embedmill

GRID = {"finetune.lr": [0.01, 1e-05], "finetune.retrieval.temperature": [0.05, 0.07]}


def sweep(**section: Any) -> dict[str, Any]:
    return {"sweep": {"grid": GRID, **section}}


def test_every_combination_is_a_trial_in_the_order_of_the_grid_once_for_each_seed() -> None:
    trials = plan(sweep(), "params.yaml")
    assert [tuple(trial.values.values()) for trial in trials] == [
        (0.01, 0.05),
        (0.01, 0.07),
        (1e-05, 0.05),
        (1e-05, 0.07),
    ]
    seeded = plan(sweep(seeds=[1, 2]), "params.yaml")
    assert [(trial.point, trial.seed) for trial in seeded] == [(t.point, seed) for t in trials for seed in (1, 2)]
    assert seeded[0].overrides == {"finetune.lr": 0.01, "finetune.retrieval.temperature": 0.05, "run.seed": 1}
    assert plan({"sweep": {"grid": {}, "seeds": [7]}}, "params.yaml") == [Trial({}, 7)]


def test_a_name_hangs_on_the_values_alone() -> None:
    names = {trial.name: trial.values for trial in plan(sweep(), "params.yaml")}
    assert len(names) == 4
    turned = {"sweep": {"grid": dict(reversed([(key, values[::-1]) for key, values in GRID.items()]))}}
    for trial in plan(turned, "params.yaml"):
        assert names[trial.name] == trial.values


def test_what_is_handed_on_comes_back_and_keeps_its_numbers() -> None:
    trials = plan(sweep(seeds=[3]), "params.yaml")
    text = json.dumps([trial.encode() for trial in trials])
    assert decode(text, "--trials") == trials
    assert {type(value) for each in json.loads(text) for value in each.values()} == {str}
    assert json.loads(text)[2]["overrides"] == (
        '{"finetune.lr":1e-05,"finetune.retrieval.temperature":0.05,"run.seed":3}'
    )
    with pytest.raises(InputError, match="--trials: no list of trials"):
        decode('{"a": 1}', "--trials")
    with pytest.raises(InputError, match=r"--trials: no list of trials \(.*it is empty"):
        decode("[]", "--trials")


def test_only_what_changes_pretraining_pretrains_again() -> None:
    assert Trial({"finetune.lr": 0.1}, 3).pretraining == {}
    assert Trial({"finetune.lr": 0.1, "pretrain.vocab_size": 100}, 3).pretraining == {
        "pretrain.vocab_size": 100,
        "run.seed": 3,
    }


def test_a_value_takes_the_place_of_what_stood_there() -> None:
    before = {"finetune": {"mining": {"dynamic": {"ratio": 2.0}, "negatives": 2}, "dev": None}}
    after = lay(before, {"finetune.mining.dynamic": {"offset": 1}, "finetune.dev.every": 5})
    assert after == {"finetune": {"mining": {"dynamic": {"offset": 1}, "negatives": 2}, "dev": {"every": 5}}}
    assert before["finetune"]["dev"] is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"grid": {"finetune.lrr": [1]}}, "p.yaml: sweep.grid: finetune.lrr: unknown key; did you mean lr?"),
        ({"grid": {"finetune.lr": [0.1, "much"]}}, "p.yaml: sweep.grid: finetune.lr: should be a valid number"),
        ({"grid": {"filter.languages": [[]]}}, "allowed are keys of pretrain and finetune, such as finetune.lr"),
        ({"grid": {"finetune": [1]}}, "sweep.grid: finetune: allowed are keys of pretrain and finetune"),
        ({"grid": {"finetune.lr": []}}, "p.yaml: sweep.grid.finetune.lr: list should have at least 1 item"),
        ({"grid": {"finetune.lr": 0.1}}, "p.yaml: sweep.grid.finetune.lr: should be a valid list, found 0.1"),
        ({"grid": {"finetune.lr": [0.1, 0.1]}}, "p.yaml: sweep.grid: finetune.lr: 0.1 stands there twice"),
        ({"seeds": [1, 1]}, "p.yaml: sweep.seeds: 1 stands there twice"),
        ({"trials": 7, "seeds": [1, 2]}, "p.yaml: sweep.grid: 2 × 2 × 2 = 8 trials; allowed by sweep.trials: 7"),
        ({"metric": "a@b@c"}, "p.yaml: sweep.metric: should be score, TASK or TASK@DIMENSION, found 'a@b@c'"),
        ({"direction": "up"}, "p.yaml: sweep.direction: should be 'max' or 'min', found 'up'"),
        ({"gird": {}}, "p.yaml: sweep.gird: unknown key; did you mean grid?"),
    ],
)
def test_what_cannot_be_tried_is_refused_by_name(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        plan(sweep(**section), "p.yaml")
    assert message in str(raised.value)


def test_the_command_prints_the_plan_and_ends_with_2_for_a_bad_one(embedmill: Embedmill) -> None:
    shown = embedmill("sweep", "plan", "--section", "sweep", json.dumps({"grid": {"finetune.lr": [0.1, 0.2]}}))
    listed = [trial["overrides"] for trial in json.loads(shown.stdout)]
    assert listed == ['{"finetune.lr":0.1}', '{"finetune.lr":0.2}']
    refused = embedmill("sweep", "plan", "--section", "sweep", json.dumps({"grid": {"finetune.l": [0.1]}}))
    assert refused.returncode == 2
    assert refused.stderr.startswith("embedmill: --section: sweep.grid: finetune.l: unknown key")
