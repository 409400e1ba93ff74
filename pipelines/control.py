"""The tasks around the chain: `record`, which keeps a run in DVC, and `finish`, which says how it ended."""

from typing import Any

from kfp import dsl

from components import chain
from pipelines.component import IMAGES, declared, outputs_of, sections_of

SECTIONS = list(dict.fromkeys(name for step in chain.steps() for name in sections_of(step)))


def record_component() -> Any:
    """`embedmill record`, with every output of every step."""
    ports = {f"{step.name}_{name}": f"{step.name}.{name}" for step in chain.steps() for name in outputs_of(step)}
    asks = [*(f"{name}_params" for name in SECTIONS), "root", "repository", "git_sha", "recipe", "run", *ports]

    def line(*values: Any) -> dsl.ContainerSpec:
        given = dict(zip(asks, values, strict=True))
        arguments: list[Any] = []
        for option in ("root", "repository", "recipe"):
            arguments += [f"--{option}", given[option]]
        arguments += ["--commit", given["git_sha"], "--run", given["run"]]
        for name in SECTIONS:
            arguments += ["--section", name, given[f"{name}_params"]]
        for name, port in ports.items():
            arguments += ["--in", port, given[name]]
        return dsl.ContainerSpec(image=IMAGES["train"], command=["embedmill", "record"], args=arguments)

    summary = "Write dvc.lock from the run, on a branch, so that dvc pull fetches exactly this model."
    return dsl.container_component(declared(line, "record", summary, dict.fromkeys(asks, str)))


@dsl.container_component
def finish(
    status: dsl.PipelineTaskFinalStatus, run: str, name: str, recipe: str, git_sha: str, webhook: str
) -> dsl.ContainerSpec:
    """Record how the run ended in MLflow, and tell a webhook."""
    arguments: list[Any] = ["--status", status, "--run", run, "--name", name]
    arguments += ["--recipe", recipe, "--git-sha", git_sha, "--webhook", webhook]
    return dsl.ContainerSpec(image=IMAGES["train"], command=["embedmill", "finish"], args=arguments)


record = record_component()
