"""A grid search as a pipeline: `python -m pipelines.sweep` writes sweep.yaml.

The data steps are those of the whole chain. Then what differs in pretraining is pretrained, once each; the trials
fine-tune and are measured, each finding its pretraining done; then come the table and the recipe of the best. Kubeflow
starts no more trials once a task has failed, so that a trial's failure is its output, and the last task fails for it.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from kfp import dsl

from components import chain
from components.sources.step import FEEDBACK
from pipelines.compiled import write
from pipelines.component import GPUS, IMAGES, JOB, THIS_RUN, declared, sections_of, step_component
from pipelines.placement import place
from pipelines.wiring import DATA_SIZE, TRAIN_SIZE, Wiring, default

FOLDER = Path(__file__).parent
# Trials at the same time; a quota of the namespace or a queue of Kueue says how many really train.
MOST_TRIALS = 16
DATA = chain.steps()[: chain.ORDER.index("pretrain")]
TRIED = [chain.step(name) for name in ("pretrain", "finetune", "export", "evaluate")]
SECTIONS = list(dict.fromkeys(name for step in TRIED for name in sections_of(step)))
PLANNED = ("sweep", "run", "pretrain", "finetune")  # sections that the plan is held against


@dsl.container_component
def plan(
    sweep_params: str,
    run_params: str,
    pretrain_params: str,
    finetune_params: str,
    recipe: str,
    trials: dsl.OutputPath(list),
    pretrainings: dsl.OutputPath(list),
) -> dsl.ContainerSpec:
    """List the trials, and what differs among them in pretraining."""
    arguments: list[Any] = ["plan", "--section", "sweep", sweep_params, "--section", "run", run_params]
    arguments += ["--section", "pretrain", pretrain_params, "--section", "finetune", finetune_params]
    arguments += ["--recipe", recipe, "--output", trials, "--pretrainings", pretrainings]
    return dsl.ContainerSpec(image=IMAGES["data"], command=["embedmill", "sweep"], args=arguments)


@dsl.container_component
def choose(
    sweep_params: str,
    trials: list,
    metrics: list,
    root: str,
    run: str,
    recipe: str,
    table: dsl.Output[dsl.HTML],
    figures: dsl.Output[dsl.Metrics],
) -> dsl.ContainerSpec:
    """Make the table of all trials, and a recipe of the best one."""
    arguments: list[Any] = ["choose", "--section", "sweep", sweep_params, "--recipe", recipe]
    arguments += ["--trials", trials, "--metrics", metrics]
    arguments += ["--output", f"{root}/sweep/{run}", "--page", table.path, "--figures", figures.uri]
    arguments += ["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
    return dsl.ContainerSpec(image=IMAGES["data"], command=["embedmill", "sweep"], args=arguments)


@dsl.container_component
def check(root: str, run: str) -> dsl.ContainerSpec:
    """Fail if a trial has failed; the table is there by then."""
    arguments: list[Any] = ["check", "--output", f"{root}/sweep/{run}"]
    return dsl.ContainerSpec(image=IMAGES["data"], command=["embedmill", "sweep"], args=arguments)


def search_pipeline() -> Any:
    """The pipeline around the loops: Kubeflow's local runner only loops over the input of a pipeline."""
    shared = ["root", "train_image", "recipe", *(f"{name}_params" for name in SECTIONS)]
    inside = {port.default for step in TRIED for port in step.outputs}
    outside = [port.default for step in TRIED for port in step.inputs if port.default not in inside]
    ports = {path: re.sub(r"\W", "_", path) for path in outside}
    asks: dict[str, Any] = {**dict.fromkeys((*shared, "sweep_params", *ports.values()), str), **GPUS, **JOB}
    asks |= {"trials": list, "pretrainings": list, "cpu": str, "memory": str}
    components = {step.name: step_component(step, overrides=step.parallel, tolerant=True) for step in TRIED}

    def body(*values: Any) -> None:
        given = dict(zip(asks, values, strict=True))
        wiring = Wiring(
            sections={name: given[f"{name}_params"] for name in SECTIONS},
            root=given["root"],
            recipe=given["recipe"],
            images=dict.fromkeys(IMAGES, given["train_image"]),
            sizes=dict.fromkeys(IMAGES, (given["cpu"], given["memory"])),
            gpus={option: given[option] for option in GPUS},
            job={option: given[option] for option in JOB},
            made={path: given[name] for path, name in ports.items()},
            components=components,
        )

        def from_here() -> Wiring:
            return replace(wiring, made=dict(wiring.made))

        pretrain, finetune, export, evaluate = TRIED
        with dsl.ParallelFor(given["pretrainings"], parallelism=MOST_TRIALS) as pretraining:
            first = from_here().add(pretrain, overrides=pretraining.overrides)
        with dsl.ParallelFor(given["trials"], parallelism=MOST_TRIALS) as trial:
            tasks = from_here()
            tasks.add(pretrain, overrides=trial.pretrain).after(first)
            tasks.add(finetune, overrides=trial.overrides)
            # a failure must not be found in the cache by a later run
            tasks.add(export).set_caching_options(False)
            measured = tasks.add(evaluate).set_caching_options(False)
        last = choose(
            sweep_params=given["sweep_params"],
            trials=given["trials"],
            metrics=dsl.Collected(measured.outputs["metrics"]),
            root=given["root"],
            **THIS_RUN,
            recipe=given["recipe"],
        )
        place(last, "sweep", hours=1).set_caching_options(False).set_cpu_limit("1").set_memory_limit("1Gi")

        checked = check(root=given["root"], **THIS_RUN).after(last)
        place(checked, "sweep", hours=1).set_caching_options(False).set_cpu_limit("1").set_memory_limit("1Gi")
        checked.set_retry(0)  # what it says stays as it is

    return dsl.pipeline(name="search")(
        declared(body, "search", "Train and measure the trials, choose the best.", asks)
    ), ports


SEARCH, PORTS = search_pipeline()


@dsl.pipeline(name="embedmill-sweep", description="A grid of training parameters; the best becomes a recipe.")
def sweep(
    sweep: str = default("sweep"),
    run: str = default("run"),
    ingest: str = default("ingest"),
    filter: str = default("filter"),
    evaluate: str = default("evaluate"),
    score: str = default("score"),
    pretrain: str = default("pretrain"),
    finetune: str = default("finetune"),
    export: str = default("export"),
    recipe: str = "",
    data_version: str = "",
    feedback: str = "",
    image: str = IMAGES["data"],
    train_image: str = IMAGES["train"],
    storage_root: str = "s3://embedmill",
    shard_groups: int = 16,
    data_cpu: str = DATA_SIZE[0],
    data_memory: str = DATA_SIZE[1],
    train_cpu: str = TRAIN_SIZE[0],
    train_memory: str = TRAIN_SIZE[1],
    train_gpus: str = TRAIN_SIZE[2],
    nodes: int = 0,
    gpus_per_node: int = 0,
    node_cpu: str = "8",
    node_memory: str = "32Gi",
    queue: str = "",
    priority_class: str = "",
    labels: str = "",
) -> None:
    """From sources to the best combination of a grid."""
    sections = {
        "run": run,
        "ingest": ingest,
        "filter": filter,
        "evaluate": evaluate,
        "score": score,
        "pretrain": pretrain,
        "finetune": finetune,
        "export": export,
    }
    job = {"nodes": nodes, "node_cpu": node_cpu, "node_memory": node_memory, "queue": queue}
    job |= {"priority_class": priority_class, "labels": labels}
    gpus = {"gpus": train_gpus, "gpus_per_node": gpus_per_node}
    planned = plan(
        sweep_params=sweep,
        run_params=run,
        pretrain_params=pretrain,
        finetune_params=finetune,
        recipe=recipe,
    )
    place(planned, "sweep", hours=1).set_cpu_limit("1").set_memory_limit("1Gi")
    wiring = Wiring(
        sections=sections,
        root=storage_root,
        recipe=recipe,
        images={"data": image, "train": train_image},
        sizes={"data": (data_cpu, data_memory), "train": (train_cpu, train_memory)},
        gpus=gpus,
        job=job,
        made={FEEDBACK: feedback},
        shard_groups=shard_groups,
    )
    first, *others = DATA
    # a grid that cannot be tried is refused before anything runs
    wiring.add(first, data_version=data_version).after(planned)
    for step in others:
        wiring.add(step)
    SEARCH(
        root=storage_root,
        train_image=train_image,
        recipe=recipe,
        sweep_params=sweep,
        trials=planned.outputs["trials"],
        pretrainings=planned.outputs["pretrainings"],
        cpu=train_cpu,
        memory=train_memory,
        **gpus,
        **job,
        **{f"{name}_params": sections[name] for name in SECTIONS},
        **{name: wiring.made[path] for path, name in PORTS.items()},
    )


if __name__ == "__main__":
    write(sweep, FOLDER / "sweep.yaml")
