"""Components of Kubeflow Pipelines, made from the declarations of the steps by one function.

A component's interface follows from the step: a JSON string for each section, the URI of each input, and of each output
the URI again. Large data never passes through Kubeflow's own store; only what people look at becomes an artefact.
"""

from __future__ import annotations

import inspect
from typing import Any

from kfp import dsl

from components.core.step import Step

# Two images run the steps; `embedmill submit` puts others in their place, by digest.
IMAGES = {"data": "embedmill-data:0.1.0", "train": "embedmill-train:0.1.0"}
# What a task may say about the machines of its job, by option of `embedmill pod`.
JOB = {"nodes": int, "node_cpu": str, "node_memory": str, "queue": str, "priority_class": str, "labels": str}
# The GPUs of a pod are text as all limits are: the backend takes a number for none.
GPUS = {"gpus": str, "gpus_per_node": int}
# Which run a task is of; the backend puts the id in its place only where it is the whole of an input.
THIS_RUN = {"run": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
# Outputs beside those of the ports: the list of parts of the next step's work, and the version of the data.
PARTS, VERSION = "parts", "version"
_SHOWN = {"metrics": dsl.Output[dsl.Metrics], "page": dsl.Output[dsl.HTML]}


def sections_of(step: Step) -> list[str]:
    """The sections that a step reads, `run` included."""
    return ["run", *step.sections]


def outputs_of(step: Step) -> list[str]:
    """The ports that a step always fills."""
    return [port.name for port in step.outputs if not port.optional]


def cached(step: Step) -> bool:
    """Whether a run takes what an earlier one made of the same inputs.

    Training does not: it finds its own result and its checkpoints. What is volatile has to look again.
    """
    return not step.volatile and not step.parallel


def told_run(step: Step) -> dict[str, str]:
    """The id of the run as an input of the step's task, but of none that is cached: its key would be of one run."""
    return {} if cached(step) else THIS_RUN


def step_component(
    step: Step, stage: str = "", feeds: bool = False, overrides: bool = False, tolerant: bool = False
) -> Any:
    """The component of a step, or of one of its stages: a share of the work that is done ahead of the step.

    One that `feeds` a fan-out tells in how many parts the next step's work falls. With `overrides` it takes single
    values to lay over the sections, as the trials of a sweep have them. A `tolerant` one fails no run: its failure is
    its output, and the tasks behind it pass that on.
    """
    asks: dict[str, Any] = {"root": str, "image": str, "recipe": str}
    asks |= {f"{name}_params": str for name in sections_of(step)} | {port.name: str for port in step.inputs}
    gives: dict[str, Any] = {}
    if overrides:
        asks["overrides"] = str
    if stage:
        asks["part"], gives["done"] = str, dsl.OutputPath(str)
        return _container(f"{step.name}_{stage}", step, asks, gives, stage)
    if step.stages:
        asks |= {"after": list, "train_image": str, **JOB}
    if step.parallel:
        asks |= {**GPUS, **JOB}
    asks |= dict.fromkeys(told_run(step), str)
    gives |= {name: dsl.OutputPath(str) for name in outputs_of(step)}
    if feeds:
        asks["shard_groups"], gives[PARTS] = int, dsl.OutputPath(list)
    if step.name == "register":
        asks["result_uri"] = str
    if step.name == "sources":
        asks["data_version"], gives[VERSION] = str, dsl.OutputPath(str)
    gives |= {f"shown_{port.name}": _SHOWN[port.shows] for port in step.outputs if port.shows}
    return _container(step.name, step, asks, gives, tolerant=tolerant)


def _container(
    name: str, step: Step, asks: dict[str, Any], gives: dict[str, Any], stage: str = "", tolerant: bool = False
) -> Any:
    """A container component whose arguments are those of `embedmill pod`.

    In them the backend replaces what stands for an input, for an output or for the whole executor input, and no more.
    """

    def line(*values: Any) -> dsl.ContainerSpec:
        given = dict(zip([*asks, *gives], values, strict=True))
        arguments: list[Any] = [*(("--stage", stage) if stage else ()), *(("--tolerant",) if tolerant else ())]
        for section in sections_of(step):
            arguments += ["--section", section, given.pop(f"{section}_params")]
        for port in step.inputs:
            arguments += ["--in", port.name, given.pop(port.name)]
        shown = [port.name for port in step.outputs if f"shown_{port.name}" in given]
        for port_name in outputs_of(step) if not stage else ():
            arguments += ["--out", port_name, given.pop(port_name)]
        for port_name in shown:
            artifact = given.pop(f"shown_{port_name}")
            arguments += ["--show", port_name, artifact.path, artifact.uri]
        if shown:
            arguments += ["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
        for option, value in given.items():
            arguments += [f"--{option.replace('_', '-')}", value]
        return dsl.ContainerSpec(image=IMAGES[step.image], command=["embedmill", "pod", step.name], args=arguments)

    return dsl.container_component(declared(line, name, step.summary, {**asks, **gives}))


def declared(function: Any, name: str, summary: str, parameters: dict[str, Any], returns: Any = None) -> Any:
    """A function as kfp reads it: its name, its docstring and its parameters, which are known only now."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    listed = [inspect.Parameter(each, kind, annotation=annotation) for each, annotation in parameters.items()]
    empty = inspect.Signature.empty
    function.__signature__ = inspect.Signature(listed, return_annotation=returns if returns is not None else empty)
    function.__name__, function.__doc__ = name, summary
    return function
