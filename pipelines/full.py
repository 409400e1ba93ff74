"""The whole chain as a pipeline: `python -m pipelines.full` writes full.yaml.

Around the chain are `record`, which keeps the run in DVC, and `finish`, which says how it ended, however it did.
"""

from pathlib import Path

from kfp import dsl

from components import chain
from components.sources.step import FEEDBACK
from pipelines.compiled import write
from pipelines.component import IMAGES, THIS_RUN
from pipelines.control import finish, record
from pipelines.placement import limit, place
from pipelines.wiring import DATA_SIZE, TRAIN_SIZE, Wiring, default

FOLDER = Path(__file__).parent


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
    job |= {"priority_class": priority_class, "labels": labels}
    wiring = Wiring(
        sections=sections,
        root=storage_root,
        recipe=recipe,
        images={"data": image, "train": train_image},
        sizes={"data": (data_cpu, data_memory), "train": (train_cpu, train_memory)},
        gpus={"gpus": train_gpus, "gpus_per_node": gpus_per_node},
        job=job,
        made={FEEDBACK: feedback},
        shard_groups=shard_groups,
    )
    own = {"sources": {"data_version": data_version}, "register": {"result_uri": result_uri}}
    ending = finish(**THIS_RUN, name=dsl.PIPELINE_JOB_NAME_PLACEHOLDER, webhook=webhook, recipe=recipe, git_sha=git_sha)
    place(ending, "finish", hours=1).set_caching_options(False).set_cpu_limit("1").set_memory_limit("1Gi")
    with dsl.ExitHandler(ending, name="chain"):
        for step in chain.steps():
            wiring.add(step, **own.get(step.name, {}))
        ports = [(step, port) for step in chain.steps() for port in step.outputs if not port.optional]
        results = {f"{step.name}_{port.name}": wiring.made[port.default] for step, port in ports}
        told = {f"{name}_params": value for name, value in sections.items()}
        where = {"root": storage_root, "repository": repository, "git_sha": git_sha, "recipe": recipe}
        task = record(**told, **where, **THIS_RUN, **results)
        place(task, "record", hours=6).set_display_name("record").set_caching_options(False)
        limit(task, data_cpu, data_memory)


if __name__ == "__main__":
    write(full, FOLDER / "full.yaml")
