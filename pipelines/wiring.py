"""The steps of the chain as tasks of a pipeline, each wired to what the ones before it made.

What follows what is read off the declarations: a step's input is the output that lies at the same path in a project.
The data steps are pipelines of their own: loops over parts of their work, one for each stage, then the step itself,
which finds what the parts did, does what is missing, and commits. Each loop ends before the next begins.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl

from components import chain
from components.core.settings import read_params
from components.core.step import Step
from pipelines.component import JOB, PARTS, declared, outputs_of, sections_of, step_component, told_run
from pipelines.placement import place_on_gpus, place_step

PARAMS = read_params(Path(__file__).parents[1] / "params.yaml")
MOST_PARTS = 64
FANNED = [step for step in chain.steps() if step.stages]


def default(section: str) -> str:
    """A section of params.yaml as the JSON string that a parameter of the pipeline holds."""
    return json.dumps(PARAMS[section], ensure_ascii=False)


def most(image: str) -> tuple[str, str, str]:
    """Cores, memory and GPUs that the steps of an image declare at most: the defaults of a pipeline's parameters."""
    asked = [step.resources for step in chain.steps() if step.image == image]
    memory = max(each.memory_gib for each in asked)
    return str(max(each.cpu for each in asked)), f"{memory}Gi", str(max(each.gpu for each in asked))


DATA_SIZE, TRAIN_SIZE = most("data"), most("train")


def feeds_a_loop(step: Step) -> bool:
    """Whether the next step falls into parts, which this one has to count."""
    following = dict(zip(chain.ORDER, chain.ORDER[1:], strict=False)).get(step.name)
    return following is not None and bool(chain.step(following).stages)


def fan_out(step: Step) -> Any:
    """The pipeline of a data step. Kubeflow's local runner only loops over the input of a pipeline."""
    sections = [f"{name}_params" for name in sections_of(step)]
    shared: dict[str, Any] = dict.fromkeys(("root", "image", "recipe", *sections), str)
    shared |= {port.name: str for port in step.inputs}
    job: dict[str, Any] = {"train_image": str, **JOB}
    more: dict[str, Any] = {"shard_groups": int} if feeds_a_loop(step) else {}
    asks = {**shared, **job, **more, "parts": list, "cpu": str, "memory": str}
    gives = [*outputs_of(step), *([PARTS] if more else [])]
    kinds = {name: list if name == PARTS else str for name in gives}
    result: Any = NamedTuple("Made", list(kinds.items()))  # type: ignore[misc]
    stages = {stage: step_component(step, stage) for stage in step.stages}
    whole = step_component(step, feeds=bool(more))

    def body(*values: Any) -> Any:
        given = dict(zip(asks, values, strict=True))
        size = given["cpu"], given["memory"]
        before: Any = None
        for stage, component in stages.items():
            with dsl.ParallelFor(given["parts"], parallelism=MOST_PARTS) as part:
                task = component(part=part, **{name: given[name] for name in shared})
                place_step(task, step, *size, stage)
                if before is not None:
                    task.after(before)
            before = task
        arguments = {name: given[name] for name in (*shared, *job, *more)}
        task = whole(after=dsl.Collected(before.outputs["done"]), **arguments)
        place_step(task, step, *size)
        return result(*(task.outputs[name] for name in gives))

    return dsl.pipeline(name=step.name)(declared(body, step.name, step.summary, asks, result))


PIPELINES = {step.name: fan_out(step) for step in FANNED}
COMPONENTS = {
    step.name: step_component(step, feeds=feeds_a_loop(step)) for step in chain.steps() if step.name not in PIPELINES
}


@dataclass
class Wiring:
    """What the tasks of a pipeline are given, and what they have made so far.

    Values are those of the pipeline's parameters: `sections` are JSON by name, `images` and `sizes` (cores and memory)
    go by the image that a step is declared for, though a step with stages has the size of data steps. `made` holds URIs
    by the path that they have in a project.
    """

    sections: Mapping[str, Any]
    root: Any
    recipe: Any
    images: Mapping[str, Any]
    sizes: Mapping[str, tuple[Any, Any]]
    gpus: Mapping[str, Any]
    job: Mapping[str, Any]
    made: dict[str, Any]
    shard_groups: Any = None
    parts: Any = None
    components: Mapping[str, Any] = field(default_factory=lambda: COMPONENTS)

    def add(self, step: Step, **more: Any) -> Any:
        """Add the task of a step, with what only this step is told. Returns the task."""
        arguments = {"root": self.root, "image": self.images[step.image], "recipe": self.recipe, **told_run(step)}
        arguments |= {f"{name}_params": self.sections[name] for name in sections_of(step)}
        arguments |= {port.name: self.made[port.default] for port in step.inputs} | more
        if feeds_a_loop(step):
            arguments["shard_groups"] = self.shard_groups
        cpu, memory = self.sizes["data" if step.stages else step.image]
        if step.stages:
            arguments |= {"parts": self.parts, "train_image": self.images["train"], "cpu": cpu, "memory": memory}
            task = PIPELINES[step.name](**arguments, **self.job)
        elif step.parallel:
            task = self.components[step.name](**arguments, **self.gpus, **self.job)
            place_on_gpus(place_step(task, step, cpu, memory), self.gpus["gpus"])
        else:
            task = self.components[step.name](**arguments)
            place_step(task, step, cpu, memory)
        self.made |= {port.default: task.outputs[port.name] for port in step.outputs if not port.optional}
        self.parts = task.outputs[PARTS] if feeds_a_loop(step) else None
        return task
