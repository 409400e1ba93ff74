"""What params.yaml may say about training: what contradicts itself is refused with the key, what is wrong and why."""

from __future__ import annotations

from typing import Any

import pytest

from components.core.errors import UsageError
from components.core.settings import parse_section
from components.finetune.params import FinetuneParams
from components.pretrain.params import PretrainParams
from components.training.plan import TASK_OF
from components.training.settings import RoleParams, SideTokens, longest

TRANSFORMER = {"type": "transformer"}


def refusal(section: str, value: dict[str, Any]) -> str:
    model = {"pretrain": PretrainParams, "finetune": FinetuneParams}[section]
    with pytest.raises(UsageError) as error:
        parse_section(section, model, value, "params.yaml")
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"params.yaml: {section}")
    return line


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"matryoshka": {"dims": [64, 64]}}, "matryoshka: dims names 64 twice"),
        ({"matryoshka": {"dims": [64, 32], "weights": [1]}}, "matryoshka: weights has 1 values, dims 2"),
        ({"matryoshka": {"dims": [64, 0]}}, "matryoshka.dims.1: should be greater than or equal to 1, found 0"),
        ({"matryoshka": {"dims": None}}, "matryoshka.dims must be given for a static model"),
        ({"matryoshka": {"reduction": "max"}}, "matryoshka.reduction: should be 'mean' or 'sum', found 'max'"),
        ({"model": TRANSFORMER}, "matryoshka.dims: 1024 is more than the model's 312 dimensions"),
        (
            {"model": {**TRANSFORMER, "name": "a/b", "dense": 512}},
            "matryoshka.dims: 1024 is more than the model's 512 dimensions",
        ),
        ({"model": {**TRANSFORMER, "hidden": 100}}, "hidden 100 must be a multiple of heads 12 (its default)"),
        ({"model": {**TRANSFORMER, "vectors": "a.npy"}}, "vectors is for static models; set type: static"),
        ({"model": {"name": "a/b"}}, "name is for transformers; set type: transformer"),
        ({"model": {"vectors": "a.npy"}}, "model.vectors belong to the tokens of a given tokenizer"),
        ({"model": {**TRANSFORMER, "positions": {"length": 99, "alpha": 0.5}}}, "alpha 0.5 gives positions i·n+j and"),
        ({"prompts": {"query": "{text} and {text}"}}, "query: {text} may stand in it once"),
        ({"max_tokens": 4}, "max_tokens"),
        ({"contrast": {"temperature": 0}}, "contrast.temperature: should be greater than or equal to 0.005, found 0"),
        ({"contrast": {"guide": {"margin": 0.1}}}, "contrast.guide.model: field required"),
        ({"precision": "fp8"}, "precision: should be 'fp32', 'bf16' or 'fp16', found 'fp8'"),
        ({"checkpoint": {"steps": None}}, "checkpoint: steps or minutes must be given"),
        ({"dev": {"rows": 0}}, "dev: rows or suite must be given"),
        ({"dev": {"suite": [{"name": "a", "type": "heldout"}]}}, "dev: suite: a: type heldout is what evaluate"),
        ({"contrast": {"guid": None}}, "contrast.guid: unknown key; did you mean guide?"),
    ],
)
def test_pretraining_parameters_that_cannot_be_meant(value: dict[str, Any], message: str) -> None:
    assert message in refusal("pretrain", value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"mining": {"first": 8, "last": 9}}, "mining: last must be first + negatives (10) or more"),
        ({"mining": {"negatives": 0, "dynamic": {}}}, "mining: dynamic needs negatives to replace"),
        (
            {"mining": {"negatives": 8, "first": 0, "last": 17, "dynamic": {}}},
            "last must be dynamic.offset + negatives (18) or more",
        ),
        (
            {"schedule": {"sampling": "balanced"}, "mining": {"negatives": 8, "dynamic": None}},
            "mining: last must be 34 or more: 4 retrieval roles hold 8 negatives each",
        ),
        ({"mining": {"dynamic": {"ratio": 1}}}, "mining.dynamic.ratio: should be greater than 1, found 1"),
        (
            {"schedule": {"weights": {"retrieval": 2}}},
            "schedule: weights and sampling: weighted belong together, found",
        ),
        ({"schedule": {"sampling": "weighted"}}, "schedule: weights and sampling: weighted belong together, found"),
        ({"schedule": {"weights": {"cosent": 1}}}, "should be 'retrieval', 'similarity' or 'classes', found 'cosent'"),
        (
            {"schedule": {"sampling": "random"}},
            "schedule.sampling: should be 'proportional', 'round_robin', 'weighted'",
        ),
        ({"schedule": {"roles": {"retrieval": 0, "similarity": 0}}}, "schedule.roles: at least one role is needed"),
        ({"schedule": {"roles": {"retrieval": -1}}}, "roles.retrieval: should be greater than or equal to 0"),
        (
            {"schedule": {"sampling": "balanced"}, "mining": {"negatives": 0}},
            "schedule.roles: retrieval roles hold different negatives; set mining.negatives to 1 or more",
        ),
        ({"zero": 4}, "zero: should be 0, 1, 2 or 3, found 4"),
    ],
)
def test_finetuning_parameters_that_cannot_be_meant(value: dict[str, Any], message: str) -> None:
    assert message in refusal("finetune", value)


def test_the_longer_side_limits_the_tokenizer() -> None:
    params = PretrainParams.model_validate({"max_tokens": {"query": 32, "passage": 128}})
    assert params.max_tokens == SideTokens(query=32, passage=128)
    assert longest(params.max_tokens) == 128
    assert longest(64) == 64


def test_dimensions_of_a_named_model_are_not_known_before_it_is_read() -> None:
    PretrainParams.model_validate({"model": {**TRANSFORMER, "name": "a/b"}})
    PretrainParams.model_validate({"model": {**TRANSFORMER, "name": "a/b", "dense": 1792}})


def test_tasks_have_the_names_of_their_sections() -> None:
    assert set(TASK_OF) <= set(FinetuneParams.model_fields)
    assert set(TASK_OF) == set(RoleParams.model_fields)
    assert RoleParams(retrieval=4, similarity=1).total == 5
