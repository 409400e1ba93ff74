"""The flywheel's poll as a pipeline, meant as a recurring run: `python -m pipelines.flywheel` writes flywheel.yaml.

One task, which starts a run of the whole chain for feedback that is new and looks what became of the last one. Every
poll has to look, so that nothing of it is cached.
"""

from pathlib import Path
from typing import Any

from kfp import dsl

from pipelines.compiled import write
from pipelines.component import IMAGES
from pipelines.placement import place

FOLDER = Path(__file__).parent
HOME = "/opt/embedmill"  # of the images


@dsl.container_component
def poll(
    feedback: str,
    host: str,
    namespace: str,
    experiment: str,
    service_account: str,
    recipe: str,
    image: str,
    train_image: str,
    storage_root: str,
    repository: str,
    webhook: str,
    labels: str,
    attempts: int,
) -> dsl.ContainerSpec:
    """Start one run for feedback that is new, or look what became of the last one."""
    arguments: list[Any] = ["poll", "--params", f"{HOME}/params.yaml", "--submit", f"{HOME}/pipelines/full.yaml"]
    arguments += ["--set", f"flywheel.feedback={feedback}", "--host", host, "--namespace", namespace]
    arguments += ["--experiment", experiment, "--service-account", service_account]
    arguments += ["--image", image, "--train-image", train_image]
    passed = {"recipe": recipe, "storage_root": storage_root, "repository": repository, "webhook": webhook}
    for name, value in passed.items():
        arguments += ["--param", f"{name}={value}"]
    arguments += ["--label", labels, "--attempts", attempts]
    return dsl.ContainerSpec(image=IMAGES["train"], command=["embedmill", "flywheel"], args=arguments)


@dsl.pipeline(
    name="embedmill-flywheel", description="Looks for feedback; what is new becomes a run of the whole chain."
)
def flywheel(
    feedback: str = "s3://embedmill/feedback",
    host: str = "",
    namespace: str = "",
    experiment: str = "embedmill",
    service_account: str = "",
    recipe: str = "",
    image: str = IMAGES["data"],
    train_image: str = IMAGES["train"],
    storage_root: str = "s3://embedmill",
    repository: str = "",
    webhook: str = "",
    labels: str = "",
    attempts: int = 3,
) -> None:
    """One poll."""
    task = poll(
        feedback=feedback,
        host=host,
        namespace=namespace,
        experiment=experiment,
        service_account=service_account,
        recipe=recipe,
        image=image,
        train_image=train_image,
        storage_root=storage_root,
        repository=repository,
        webhook=webhook,
        labels=labels,
        attempts=attempts,
    )
    place(task, "poller", hours=1).set_caching_options(False).set_cpu_limit("1").set_memory_limit("2Gi")


if __name__ == "__main__":
    write(flywheel, FOLDER / "flywheel.yaml")
