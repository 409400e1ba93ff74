"""KubeRay's RayJob: one step on a Ray cluster of its own, as pipelines/kubernetes/ray has it for `kubectl apply`.

Fields of ray.io/v1 in KubeRay 1.6. The head runs the step and no shards. The operator makes a pod that submits the job
and shows its lines (`submissionMode: K8sJobMode`). It writes that pod's shell command from `entrypoint` unquoted, and
Ray quotes by rules of its own, so the words of the step's command travel in the head's environment instead.
"""

from __future__ import annotations

import json
import re

from components.launch import launcher
from components.launch.apiserver import Object, Pace
from components.launch.entrypoint import ARGUMENTS
from components.launch.job import Job, Log, literal
from components.launch.kind import Kind, State, waiting

GROUP = "ray.io"
VERSION = "v1"
RAY = "2.60.0"  # in the image; KubeRay has to know, or its probes want wget there
JOB_LABEL = "embedmill.dev/job"
ROLE_LABEL = "embedmill.dev/role"
HEAD = "ray-head"
SUBMITTER = "ray-job-submitter"
ACCOUNT = "embedmill-step"
USER = 10001
KEEP_SECONDS = 600  # the Ray cluster, if nobody deletes the job that has ended
EXIT_CODE = re.compile(r"failed with exit code (\d+)")  # in Ray's message about a job that failed


def run_ray_job(job: Job, log: Log, workers: int, pace: Pace = Pace()) -> None:  # noqa: B008
    """Run `job` on a Ray cluster of a head and `workers` machines, each of the job's size; pass on the command's lines.

    Raises JobFailed when it has failed, Interrupted after a signal, InputError or UsageError when it is refused.
    """
    launcher.run(KIND, job, manifest(job, workers), log, pace)


def manifest(job: Job, workers: int) -> Object:
    """The RayJob of a job."""
    words = literal(json.dumps(list(job.command), ensure_ascii=False))
    ports = [("gcs-server", 6379), ("dashboard", 8265), ("client", 10001)]
    head = _template(job, "head", HEAD, job.resources(), shared_gib=2)
    head["spec"]["containers"][0]["ports"] = [{"name": name, "containerPort": port} for name, port in ports]
    head["spec"]["containers"][0]["env"].append({"name": ARGUMENTS, "value": words})
    small = {"cpu": "500m", "memory": "1Gi"}
    submitter = _template(job, "submitter", SUBMITTER, {"requests": dict(small), "limits": dict(small)})
    submitter["spec"]["restartPolicy"] = "Never"
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "RayJob",
        "metadata": {"name": job.name, "labels": job.all_labels() | job.queue_labels()},
        "spec": {
            "entrypoint": "python -m components.launch.entrypoint",
            "submissionMode": "K8sJobMode",
            "submitterPodTemplate": submitter,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "rayClusterSpec": {
                "rayVersion": RAY,
                "headGroupSpec": {
                    # the dashboard is where the job is submitted; a NetworkPolicy keeps others away
                    "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", **_objects(1)},
                    "template": head,
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "shards",
                        "replicas": workers,
                        "minReplicas": workers,
                        "maxReplicas": workers,
                        "rayStartParams": _objects(2),  # as many shards at a time as the limit has cores
                        "template": _template(job, "worker", "ray-worker", job.resources(), shared_gib=3),
                    }
                ],
            },
        },
    }


def _objects(gib: int) -> dict[str, str]:
    return {"object-store-memory": str(gib << 30)}


def _template(job: Job, role: str, container: str, resources: Object, shared_gib: int = 0) -> Object:
    """The template of a role's pods: of the image's user, on a read-only root, with the settings of all our pods."""
    folders = {"work": "/work", "tmp": "/tmp"} | ({"shm": "/dev/shm"} if shared_gib else {})
    env = {"HOME": "/work", "RAY_USAGE_STATS_ENABLED": "0", **job.env}
    volumes: list[Object] = [{"name": "work", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    if shared_gib:
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared_gib}Gi"}})
    spec: Object = {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": container,
                "image": job.image,
                "workingDir": "/work",
                "env": [{"name": name, "value": literal(value)} for name, value in sorted(env.items())],
                "envFrom": [
                    {"configMapRef": {"name": "embedmill-settings"}},
                    {"secretRef": {"name": "embedmill-s3"}},
                    {"secretRef": {"name": "embedmill-tokens", "optional": True}},
                ],
                "resources": resources,
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": name, "mountPath": path} for name, path in folders.items()],
            }
        ],
        "volumes": volumes,
    }
    if job.priority_class and not job.queue:
        spec["priorityClassName"] = job.priority_class
    labels = {**job.all_labels(), JOB_LABEL: job.name, ROLE_LABEL: role}
    return {"metadata": {"labels": labels}, "spec": spec}


def state(job: Object) -> State:
    """Where a RayJob stands, by its deployment status, and once that has ended, by the status of the job in Ray."""
    status = job.get("status", {})
    deployment, outcome = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    if deployment in ("Complete", "Failed"):
        words = ": ".join(filter(None, (status.get("reason"), (status.get("message") or "").split("\n")[0])))
        return State("succeeded") if outcome == "SUCCEEDED" else State("failed", words or outcome)
    if deployment == "Suspended" or job.get("spec", {}).get("suspend"):
        return State("waiting", waiting(job))
    return State("going")


def exit_code(job: Object) -> int | None:
    """The exit code of the step's command, as Ray's message about a failed job has it."""
    match = EXIT_CODE.search(job.get("status", {}).get("message") or "")
    return int(match.group(1)) if match else None


def rank(pod: Object) -> str | None:
    """`driver` for the pod that shows the command's lines; the machines of the cluster show only Ray's."""
    return "driver" if pod["metadata"].get("labels", {}).get(ROLE_LABEL) == "submitter" else None


KIND = Kind(
    name="RayJob",
    group=GROUP,
    version=VERSION,
    plural="rayjobs",
    controller="KubeRay",
    container=SUBMITTER,
    selector=lambda name: f"{JOB_LABEL}={name}",
    state=state,
    rank=rank,
    exit_code=exit_code,
)
