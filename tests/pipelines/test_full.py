"""pipelines/full.yaml says what the declarations say."""

from __future__ import annotations

import json
import re
from typing import Any

import click
import pytest

from components import chain
from components.cli import cli
from components.core.settings import read_params
from components.core.step import Step
from tests.conftest import PROJECT
from tests.pipelines.rendered import documents

SPEC, PLATFORM = documents("full.yaml")
ROOT = SPEC["root"]
PARAMETERS = ROOT["inputDefinitions"]["parameters"]
EXECUTORS = SPEC["deploymentSpec"]["executors"]


def containers(command: str) -> list[dict[str, Any]]:
    """The containers of all tasks that run a command of `embedmill`."""
    found = [executor["container"] for executor in EXECUTORS.values()]
    return [each for each in found if " ".join(each["command"][1:]) == command]


def whole(step: Step) -> dict[str, Any]:
    """The container of a step itself, not of its stages."""
    (found,) = [each for each in containers(f"pod {step.name}") if "--stage" not in each["args"]]
    return found


def values(arguments: list[Any], option: str) -> list[Any]:
    return [arguments[place + 1] for place, each in enumerate(arguments) if each == option]


def test_there_is_one_json_parameter_for_each_section_with_the_default_of_params_yaml() -> None:
    params = read_params(PROJECT / "params.yaml")
    read = {"run", *(name for step in chain.steps() for name in step.sections)}
    for name in read:
        assert PARAMETERS[name]["parameterType"] == "STRING"
        assert json.loads(PARAMETERS[name]["defaultValue"]) == params[name]
    assert not [name for name in set(params) - read if name in PARAMETERS]


def test_every_parameter_has_a_default_so_that_the_file_runs_as_it_is() -> None:
    assert [
        name for name, each in PARAMETERS.items() if "defaultValue" not in each and not each.get("isOptional")
    ] == []


@pytest.mark.parametrize("step", chain.steps(), ids=lambda step: step.name)
def test_a_task_repeats_the_declaration_of_its_step(step: Step) -> None:
    container = whole(step)
    assert container["image"] == f"embedmill-{step.image}:0.1.0"
    assert values(container["args"], "--section") == ["run", *step.sections]
    assert values(container["args"], "--in") == [port.name for port in step.inputs]
    assert values(container["args"], "--out") == [port.name for port in step.outputs if not port.optional]
    assert values(container["args"], "--show") == [port.name for port in step.outputs if port.shows]
    stages = [each["args"][1] for each in containers(f"pod {step.name}") if each["args"][0] == "--stage"]
    assert sorted(stages) == sorted(step.stages)


def component(name: str) -> dict[str, Any]:
    found: dict[str, Any] = SPEC["components"][name]
    return found


def fanned(step: Step) -> dict[str, Any]:
    """The tasks of the pipeline that a data step is."""
    dags = [each["dag"]["tasks"] for each in SPEC["components"].values() if "dag" in each]
    (found,) = [tasks for tasks in dags if step.name in tasks and any("parameterIterator" in t for t in tasks.values())]
    return found  # type: ignore[no-any-return]


def test_every_value_that_a_task_takes_from_around_it_is_handed_to_what_it_stands_in() -> None:
    groups = [ROOT, *(each for each in SPEC["components"].values() if "dag" in each)]
    for group in groups:
        given = set(group.get("inputDefinitions", {}).get("parameters", {}))
        for name, task in group["dag"]["tasks"].items():
            taken = [each.get("componentInputParameter") for each in task["inputs"]["parameters"].values()]
            assert {each for each in taken if each} <= given, name


def test_each_stage_of_a_data_step_is_a_loop_that_waits_for_the_one_before() -> None:
    for step in (step for step in chain.steps() if step.stages):
        tasks = fanned(step)
        loops = {name: task for name, task in tasks.items() if "parameterIterator" in task}
        assert len(loops) == len(step.stages)
        assert {task["iteratorPolicy"]["parallelismLimit"] for task in loops.values()} == {64}
        waits = [tuple(task.get("dependentTasks", ())) for task in loops.values()]
        assert sorted(waits) == sorted([(), *((name,) for name in sorted(loops)[:-1])])
        (rest,) = set(tasks) - set(loops)
        assert tasks[rest]["inputs"]["parameters"]["after"]["taskOutputParameter"]["producerTask"] == sorted(loops)[-1]


def test_tasks_are_tried_again_and_cached_where_their_inputs_decide_their_result() -> None:
    tasks = {
        name: task
        for each in SPEC["components"].values()
        for name, task in each.get("dag", {}).get("tasks", {}).items()
        if "executorLabel" in component(task["componentRef"]["name"])
    }
    for step in chain.steps():
        task = tasks[step.name]
        assert task.get("cachingOptions", {}).get("enableCache", False) == (not step.volatile and not step.parallel)
    assert {task["retryPolicy"]["maxRetryCount"] for task in tasks.values()} == {3}
    for task in (tasks["record"], ROOT["dag"]["tasks"]["finish"]):
        assert not task.get("cachingOptions", {}).get("enableCache", False)


def test_the_last_attempt_of_a_task_has_its_whole_time() -> None:
    """Argo ends every attempt that lasts longer than the retry policy's maximum since the start of the first one."""
    configs = PLATFORM["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for group in (ROOT, *(each for each in SPEC["components"].values() if "dag" in each)):
        for name, task in group["dag"]["tasks"].items():
            if "retryPolicy" in task:
                policy, config = task["retryPolicy"], configs[component(task["componentRef"]["name"])["executorLabel"]]
                first, longest = (int(policy[key].rstrip("s")) for key in ("backoffDuration", "backoffMaxDuration"))
                attempts = policy["maxRetryCount"] + 1
                pauses = first * (2 ** policy["maxRetryCount"] - 1)
                assert longest >= attempts * int(config["activeDeadlineSeconds"]) + pauses, name


def test_a_task_learns_of_its_run_by_an_input_and_one_that_is_cached_by_the_label_of_its_pod() -> None:
    configs = PLATFORM["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for group in (each["dag"]["tasks"] for each in SPEC["components"].values() if "dag" in each):
        for name, task in group.items():
            label = component(task["componentRef"]["name"]).get("executorLabel")
            if label is None:
                continue
            fields = [
                each["fieldPath"]
                for each in configs[label].get("fieldPathAsEnv", ())
                if each["name"] == "EMBEDMILL_RUN_ID"
            ]
            told = task["inputs"]["parameters"].get("run", {}).get("runtimeValue", {}).get("constant")
            if task.get("cachingOptions", {}).get("enableCache", False):
                assert (fields, told) == (["metadata.labels['pipeline/runid']"], None), name
                assert "pipeline_job" not in json.dumps(task["inputs"]), name
            else:
                assert (fields, told) == ([], "{{$.pipeline_job_uuid}}"), name


def test_the_exit_handler_hears_how_the_chain_ended() -> None:
    task = ROOT["dag"]["tasks"]["finish"]
    assert task["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert task["inputs"]["parameters"]["status"]["taskFinalStatus"] == {"producerTask": task["dependentTasks"][0]}


def test_no_task_holds_a_secret_or_a_value_of_the_environment() -> None:
    assert not [each for each in EXECUTORS.values() if each["container"].get("env")]
    configs = PLATFORM["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(configs) == set(EXECUTORS)
    for config in configs.values():
        assert {each["secretName"] for each in config["secretAsEnv"]} == {"embedmill-s3", "embedmill-tokens"}
        assert config["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert {each["mountPath"] for each in config["emptyDirMounts"]} >= {"/work", "/tmp"}
        assert int(config["activeDeadlineSeconds"]) > 0


def test_every_command_line_is_one_that_embedmill_takes() -> None:
    for component in SPEC["components"].values():
        if "executorLabel" not in component:
            continue
        container = EXECUTORS[component["executorLabel"]]["container"]
        declared = component.get("inputDefinitions", {}).get("parameters", {})
        program, *line = [*container["command"], *container["args"]]
        assert program == "embedmill"
        arguments = [sample(each, declared) for each in line]
        command = cli.get_command(click.Context(cli), arguments[0])
        assert command is not None, arguments[0]
        command.make_context(arguments[0], arguments[1:])


def sample(argument: Any, declared: dict[str, Any]) -> str:
    """An argument with a value in place of its placeholder."""
    found = re.fullmatch(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}", argument)
    if not found:
        assert "inputs.parameters" not in argument
        return str(argument)
    number = declared[found[1]]["parameterType"] == "NUMBER_INTEGER" or found[1] == "gpus"
    return "1" if number else "x"
