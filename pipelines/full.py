"""The whole chain as a pipeline: `python -m pipelines.full` writes full.yaml.

What follows what is read off the declarations: a step's input is the output that lies at the same path in a project.
The data steps are pipelines of their own: loops over parts of their work, one for each stage, then the step itself,
which finds what the parts did, does what is missing, and commits. Each loop ends before the next begins.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from kfp import dsl

from components import chain
from components.core.settings import read_params
from components.core.step import Step
from components.sources.step import FEEDBACK
from pipelines.compiled import write
from pipelines.component import (
    IMAGES,
    JOB,
    PARTS,
    THIS_RUN,
    declared,
    outputs_of,
    sections_of,
    step_component,
    told_run,
)
from pipelines.control import finish, record
from pipelines.placement import limit, place, place_on_gpus, place_step

FOLDER = Path(__file__).parent
PARAMS = read_params(FOLDER.parent / "params.yaml")
MOST_PARTS = 64
FANNED = [step for step in chain.steps() if step.stages]


def default(section: str) -> str:
    """A section of params.yaml as the JSON string that a parameter of the pipeline holds."""
    return json.dumps(PARAMS[section], ensure_ascii=False)


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


@dsl.pipeline(name="embedmill", description="Raw text pairs in; a registered, measured text-embedding model out.")
def full(
    run: str = default("run"),
    ingest: str = default("ingest"),
    filter: str = default("filter"),
    evaluate: str = default("evaluate"),
    score: str = default("score"),
    pretrain: str = default("pretrain"),
    finetune: str = default("finetune"),
    export: str = default("export"),
    register: str = default("register"),
    recipe: str = "",
    data_version: str = "",
    feedback: str = "",
    result_uri: str = "",
    git_sha: str = "",
    repository: str = "",
    image: str = IMAGES["data"],
    train_image: str = IMAGES["train"],
    storage_root: str = "s3://embedmill",
    shard_groups: int = 16,
    data_cpu: str = "2",
    data_memory: str = "4Gi",
    train_cpu: str = "2",
    train_memory: str = "8Gi",
    train_gpus: str = "0",
    nodes: int = 0,
    gpus_per_node: int = 0,
    node_cpu: str = "8",
    node_memory: str = "32Gi",
    queue: str = "",
    priority_class: str = "",
    webhook: str = "",
) -> None:
    """From sources to a registered model, its report, and a branch from which `dvc pull` fetches it."""
    sections = {
        "run": run,
        "ingest": ingest,
        "filter": filter,
        "evaluate": evaluate,
        "score": score,
        "pretrain": pretrain,
        "finetune": finetune,
        "export": export,
        "register": register,
    }
    job = {"nodes": nodes, "node_cpu": node_cpu, "node_memory": node_memory, "queue": queue}
    job |= {"priority_class": priority_class}
    gpus = {"gpus": train_gpus, "gpus_per_node": gpus_per_node}
    images = {"data": image, "train": train_image}
    made: dict[str, Any] = {FEEDBACK: feedback}
    results: dict[str, Any] = {}
    parts: Any = None
    ending = finish(**THIS_RUN, name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER, webhook=webhook, recipe=recipe, git_sha=git_sha)
    place(ending, "finish", hours=1).set_caching_options(False).set_cpu_limit("1").set_memory_limit("1Gi")
    with dsl.ExitHandler(ending, name="chain"):
        for step in chain.steps():
            arguments = {"root": storage_root, "image": images[step.image], "recipe": recipe, **told_run(step)}
            arguments |= {f"{name}_params": sections[name] for name in sections_of(step)}
            arguments |= {port.name: made[port.default] for port in step.inputs}
            if step.name == "sources":
                arguments["data_version"] = data_version
            if step.name == "register":
                arguments["result_uri"] = result_uri
            if feeds_a_loop(step):
                arguments["shard_groups"] = shard_groups
            if step.stages:
                size = {"cpu": data_cpu, "memory": data_memory}
                task = PIPELINES[step.name](parts=parts, train_image=train_image, **size, **job, **arguments)
            elif step.parallel:
                task = COMPONENTS[step.name](**arguments, **gpus, **job)
                place_on_gpus(place_step(task, step, train_cpu, train_memory), train_gpus)
            else:
                task = COMPONENTS[step.name](**arguments)
                size = (train_cpu, train_memory) if step.image == "train" else (data_cpu, data_memory)
                place_step(task, step, *size)
            made |= {port.default: task.outputs[port.name] for port in step.outputs if not port.optional}
            results |= {f"{step.name}_{name}": task.outputs[name] for name in outputs_of(step)}
            parts = task.outputs[PARTS] if feeds_a_loop(step) else None
        told = {f"{name}_params": value for name, value in sections.items()}
        where = {"root": storage_root, "repository": repository, "git_sha": git_sha, "recipe": recipe}
        task = record(**told, **where, **THIS_RUN, **results)
        place(task, "record", hours=6).set_display_name("record").set_caching_options(False)
        limit(task, data_cpu, data_memory)


if __name__ == "__main__":
    write(full, FOLDER / "full.yaml")
