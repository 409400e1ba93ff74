"""pipelines/sweep.yaml: its loops take what `embedmill sweep plan` gives."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest

from components import chain
from components.core.settings import read_params
from components.pod.command import pod
from components.sweep.command import sweep as sweep_group
from tests.conftest import PROJECT
from tests.pipelines.rendered import documents

SPEC, PLATFORM = documents("sweep.yaml")
EXECUTORS = SPEC["deploymentSpec"]["executors"]
PARAMETERS = SPEC["root"]["inputDefinitions"]["parameters"]
SEARCH = SPEC["components"]["comp-search"]["dag"]["tasks"]


def test_sections_have_the_defaults_of_params_yaml() -> None:
    params = read_params(PROJECT / "params.yaml")
    named = [name for name in PARAMETERS if name in chain.sections()]
    assert {name: json.loads(PARAMETERS[name]["defaultValue"]) for name in named} == {n: params[n] for n in named}
    assert {"sweep", "run", "pretrain", "finetune", "export", "evaluate"} <= set(named)


@pytest.mark.parametrize("name", chain.ORDER[: chain.ORDER.index("pretrain")])
def test_the_data_is_made_as_in_the_whole_chain_so_that_what_is_there_is_found(name: str) -> None:
    whole, _ = documents("full.yaml")
    tasks = {"full": whole["components"]["comp-exit-handler-1"]["dag"]["tasks"], "sweep": SPEC["root"]["dag"]["tasks"]}
    given = {
        pipeline: {
            parameter: json.dumps(value).replace("pipelinechannel--", "")
            for parameter, value in those[name]["inputs"]["parameters"].items()
            if not parameter.startswith("pipelinechannel--")
        }
        for pipeline, those in tasks.items()
    }
    assert given["sweep"] == given["full"]


def inside(loop: str) -> dict[str, Any]:
    tasks: dict[str, Any] = SPEC["components"][SEARCH[loop]["componentRef"]["name"]]["dag"]["tasks"]
    return tasks


def test_pretrainings_come_first_and_every_trial_finds_its_own_done() -> None:
    loops = sorted(name for name, task in SEARCH.items() if "parameterIterator" in task)
    assert [SEARCH[name]["iteratorPolicy"]["parallelismLimit"] for name in loops] == [16, 16]
    assert [SEARCH[name].get("dependentTasks") for name in loops] == [None, [loops[0]]]
    assert list(inside(loops[0])) == ["pretrain"]
    trial = inside(loops[1])
    assert len(trial) == 4
    overrides = {
        name.removesuffix("-2"): task["inputs"]["parameters"]["overrides"]["parameterExpressionSelector"]
        for name, task in trial.items()
        if "overrides" in task["inputs"]["parameters"]
    }
    assert overrides == {
        "pretrain": 'parseJson(string_value)["pretrain"]',
        "finetune": 'parseJson(string_value)["overrides"]',
    }
    assert SEARCH["choose"]["dependentTasks"] == [loops[1]]


@pytest.mark.parametrize("label", sorted(EXECUTORS))
def test_every_command_line_is_one_that_the_command_takes(label: str) -> None:
    container = EXECUTORS[label]["container"]
    first, command, *more = container["command"]
    arguments = [*more, *container["args"]]
    if command == "sweep":
        parsed: click.Command = sweep_group.commands[arguments.pop(0)]
    else:
        assert (first, command) == ("embedmill", "pod")
        parsed = pod
    options = {name: option for option in parsed.params for name in option.opts}
    place = 0
    while place < len(arguments):
        if not str(arguments[place]).startswith("--"):
            place += 1  # the step's name
            continue
        place += 1 + options[arguments[place]].nargs


def test_tasks_have_limits_and_credentials_by_reference() -> None:
    configs = PLATFORM["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(configs) == set(EXECUTORS)
    for label, config in configs.items():
        assert {each["secretName"] for each in config["secretAsEnv"]} == {"embedmill-s3", "embedmill-tokens"}
        assert "resources" in EXECUTORS[label]["container"]
