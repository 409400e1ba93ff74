"""Kubeflow Trainer's TrainJob: every name of its API that this project knows stands here.

The API is v1alpha1 and has changed at every minor version. The fields are those of release 2.4.0, and the same in 2.2
and 2.3: `runtimePatches` (`podTemplateOverrides` up to 2.1), `numProcPerNode` as a number only. Trainer makes a JobSet
of the same name from the TrainingRuntime, JobSet makes the indexed Job `NAME-node-0`, and that the pods. Variables of
torchrun are Trainer's to set: PET_NNODES, PET_NPROC_PER_NODE, PET_NODE_RANK, PET_MASTER_ADDR, PET_MASTER_PORT.
"""

from __future__ import annotations

from components.launch import launcher
from components.launch.apiserver import Object, Pace
from components.launch.job import Job, Log, literal
from components.launch.kind import Kind, State, waiting

GROUP = "trainer.kubeflow.org"
VERSION = "v1alpha1"
RUNTIME = "embedmill-torch"  # a TrainingRuntime of the namespace, in pipelines/kubernetes
NODE = "node"  # Trainer's name for the replicated job and the container that train
MANAGER = "embedmill.dev/launcher"
JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
REPLICATED_JOB = "jobset.sigs.k8s.io/replicatedjob-name"
INDEX = "batch.kubernetes.io/job-completion-index"


def run_train_job(job: Job, log: Log, pace: Pace = Pace()) -> None:  # noqa: B008
    """Run `job` as a TrainJob and pass on its lines, each after `[rank]`; return when it is done and deleted.

    Raises JobFailed when it has failed, Interrupted after a signal, InputError or UsageError when it is refused.
    """
    if job.priority_class and not job.queue:
        log(f"priority class {job.priority_class}: without a queue, pods of a TrainJob have that of runtime {RUNTIME}")
    launcher.run(KIND, job, manifest(job), log, pace)


def manifest(job: Job) -> Object:
    """The TrainJob of a job."""
    labels = job.all_labels()
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": job.name, "labels": labels | job.queue_labels()},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": RUNTIME},
            "trainer": {
                "image": job.image,
                "command": [literal(word) for word in job.command],
                "env": [{"name": name, "value": literal(value)} for name, value in sorted(job.env.items())],
                "numNodes": job.nodes,
                "numProcPerNode": max(1, job.gpus),
                "resourcesPerNode": job.resources(),
            },
            "runtimePatches": [
                {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": _pod_labels(labels)}}}
            ],
        },
    }


def _pod_labels(labels: dict[str, str]) -> Object:
    pods = {"template": {"metadata": {"labels": labels}}}
    return {"replicatedJobs": [{"name": NODE, "template": {"spec": pods}}]}


def state(job: Object) -> State:
    """Where a TrainJob stands, by its conditions."""
    conditions = {each["type"]: each for each in job.get("status", {}).get("conditions") or []}

    def holds(kind: str) -> bool:
        return bool(conditions.get(kind, {}).get("status") == "True")

    if holds("Complete"):
        return State("succeeded")
    if holds("Failed"):
        return State(
            "failed", ": ".join(filter(None, (conditions["Failed"].get(key) for key in ("reason", "message"))))
        )
    if holds("Suspended") or job.get("spec", {}).get("suspend"):
        return State("waiting", waiting(job))
    return State("going")


def rank(pod: Object) -> str | None:
    """A node's rank: the index that its pod has in the Job."""
    metadata = pod["metadata"]
    if metadata.get("labels", {}).get(REPLICATED_JOB) != NODE:
        return None
    index = metadata["labels"].get(INDEX) or metadata.get("annotations", {}).get(INDEX)
    return str(index) if index is not None else None


KIND = Kind(
    name="TrainJob",
    group=GROUP,
    version=VERSION,
    plural="trainjobs",
    controller="Kubeflow Trainer v2",
    container=NODE,
    selector=lambda name: f"{JOBSET_NAME}={name}",
    state=state,
    rank=rank,
    exit_code=lambda job: None,
)
