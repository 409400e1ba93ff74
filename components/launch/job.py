"""What a job of the cluster runs, and the errors that it may end with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from components.core.errors import EmbedmillError

GPU = "nvidia.com/gpu"
PART_OF = "app.kubernetes.io/part-of"
COMPONENT = "app.kubernetes.io/component"
RUN = "embedmill.dev/run"
QUEUE = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY = "kueue.x-k8s.io/priority-class"

Log = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One command in containers of one image, on `nodes` nodes of the cluster."""

    name: str
    """See `job_name`. The same name and the same everything else but `labels` is the same job."""
    step: str
    command: tuple[str, ...]
    """The whole argv of each node's container."""
    image: str
    nodes: int = 1
    gpus: int = 0
    """GPUs of a node."""
    cpu: str = "2"
    """Cores of a node, as Kubernetes writes them: 2, 500m."""
    memory: str = "8Gi"
    labels: Mapping[str, str] = field(default_factory=dict)
    """Whose job it is: the run, the pipeline, and what costs are grouped by."""
    env: Mapping[str, str] = field(default_factory=dict)
    queue: str = ""
    """Kueue's local queue; empty: none."""
    priority_class: str = ""

    def all_labels(self) -> dict[str, str]:
        """The labels of the job and its pods."""
        return {PART_OF: "embedmill", COMPONENT: self.step, **self.labels}

    def queue_labels(self) -> dict[str, str]:
        """The labels by which Kueue takes the job into its queue."""
        if not self.queue:
            return {}
        return {QUEUE: self.queue} | ({QUEUE_PRIORITY: self.priority_class} if self.priority_class else {})

    def resources(self) -> dict[str, dict[str, str]]:
        """What a node asks for and is limited to: the same, so that nothing is taken from it later."""
        amounts = {"cpu": self.cpu, "memory": self.memory} | ({GPU: str(self.gpus)} if self.gpus else {})
        return {"requests": dict(amounts), "limits": dict(amounts)}


def job_name(step: str, digest: str) -> str:
    """The name of the job that makes what `digest` (hex) stands for.

    It leaves room for what is appended: JobSet's pods are `NAME-node-0-9999-abcde`, of at most 63 characters in all,
    and a RayJob's name may have 47.
    """
    return f"embedmill-{step}-{digest[:12]}"


def literal(text: str) -> str:
    """`text` as it is written in a container's command or environment, where Kubernetes reads `$(NAME)` and `$$`."""
    return text.replace("$", "$$")


class JobFailed(EmbedmillError):
    """The job failed, was created again where that could help, and failed again; its lines have been passed on."""

    def __init__(self, message: str, exit_code: int = EmbedmillError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code
