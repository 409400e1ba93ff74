"""How a task runs on a cluster: retries, limits, credentials by reference, scratch space, labels."""

from __future__ import annotations

from typing import Any

from kfp import kubernetes

from components.core.labels import PIPELINE, PIPELINE_KEY
from components.core.step import Step
from components.core.tracking import RUN_KEY
from pipelines.component import cached

SETTINGS = ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "KF_PIPELINES_UI_ENDPOINT")
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
TOKENS = (
    "GIT_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_USERNAME",
    "OPENAI_API_KEY",
    "WEBHOOK_TOKEN",
)
RUN_LABEL = "pipeline/runid"  # by which Kubeflow Pipelines marks every pod of a run
USER = 10001  # of the images
RETRIES = 3
SECONDS_AN_HOUR = 3600


def place(task: Any, component: str, hours: int) -> Any:
    """Everything but cores, memory and GPUs, which are parameters of the pipeline. Returns the task."""
    seconds = hours * SECONDS_AN_HOUR  # of one attempt
    # to Argo the last one is no longest pause but a deadline for all attempts, from the start of the first
    task.set_retry(
        RETRIES, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration=f"{(RETRIES + 2) * seconds}s"
    )
    kubernetes.set_timeout(task, seconds)
    kubernetes.use_config_map_as_env(task, "embedmill-settings", {key: key for key in SETTINGS}, optional=True)
    kubernetes.use_secret_as_env(task, "embedmill-s3", {key: key for key in KEYS}, optional=True)
    kubernetes.use_secret_as_env(task, "embedmill-tokens", {key: key for key in TOKENS}, optional=True)
    kubernetes.empty_dir_mount(task, "work", "/work")
    kubernetes.empty_dir_mount(task, "tmp", "/tmp")
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    labels = {
        "app.kubernetes.io/part-of": "embedmill",
        "app.kubernetes.io/component": component,
        "sidecar.istio.io/inject": "false",  # a sidecar would keep the pod alive after its work
    }
    for key, value in labels.items():
        kubernetes.add_pod_label(task, key, value)
    kubernetes.add_pod_annotation(task, "sidecar.istio.io/inject", "false")
    return task


def place_step(task: Any, step: Step, cpu: Any, memory: Any, stage: str = "") -> Any:
    """Place the task of a step or of one of its stages."""
    place(task, step.name, step.hours)
    task.set_display_name(f"{step.name}: {stage}" if stage else step.name)
    limit(task, cpu, memory)
    task.set_caching_options(cached(step))
    kubernetes.use_field_path_as_env(task, PIPELINE_KEY, f"metadata.labels['{PIPELINE}']")
    if cached(step):  # others are told by an input
        kubernetes.use_field_path_as_env(task, RUN_KEY, f"metadata.labels['{RUN_LABEL}']")
    return task


def limit(task: Any, cpu: Any, memory: Any) -> None:
    """Cores and memory by parameters of the pipeline."""
    task.set_cpu_limit(cpu)
    task.set_memory_limit(memory)
    # the SDK does not see that a task in a loop or in an exit handler needs them handed on
    task.register_pipeline_channels([cpu, memory])


def place_on_gpus(task: Any, gpus: Any) -> Any:
    """GPUs of the task's own pod, and memory that the processes on them share."""
    task.set_accelerator_type("nvidia.com/gpu")
    task.set_accelerator_limit(gpus)
    task.register_pipeline_channels([gpus])
    kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory")
    kubernetes.add_toleration(task, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    return task
