"""The manifests of the data steps on Ray: fields that KubeRay knows, commands that this package knows, no privilege."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import chain
from components.core.command import parse_sections, step_command
from components.core.settings import override
from tests.conftest import PROJECT

ROOT = PROJECT / "pipelines" / "kubernetes" / "ray"
STEPS = {"ingest": ["sources", "ingest"], "filter": ["filter"], "score": ["score"]}
DATA = "s3://embedmill/data"

# Names of fields as in ray-operator/apis/ray/v1 of KubeRay 1.x and the Kubernetes core API; all others are refused.
JOB = {
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "entrypoint", "entrypointNumCpus", "entrypointNumGpus",
    "entrypointResources", "jobId", "managedBy", "metadata", "rayClusterSpec", "runtimeEnvYAML",
    "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate", "suspend",
    "ttlSecondsAfterFinished",
}  # fmt: skip
CLUSTER = {
    "autoscalerOptions", "enableInTreeAutoscaling", "headGroupSpec", "headServiceAnnotations", "rayVersion", "suspend",
    "workerGroupSpecs",
}  # fmt: skip
HEAD = {"enableIngress", "headService", "rayStartParams", "serviceType", "template"}
GROUP = {
    "groupName", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas", "scaleStrategy", "template",
}  # fmt: skip
POD = {"automountServiceAccountToken", "containers", "securityContext", "serviceAccountName", "volumes"}
CONTAINER = {
    "env", "envFrom", "image", "name", "ports", "resources", "securityContext", "volumeMounts", "workingDir",
}  # fmt: skip
START = {"dashboard-host", "num-cpus", "object-store-memory"}  # options of `ray start`
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def render(step: str) -> dict[str, Any]:
    """The job of a step, as kustomize makes it: the base with the step's replacements."""
    job: dict[str, Any] = copy.deepcopy(load("base/job.yaml"))
    kustomization = load(f"{step}/kustomization.yaml")
    assert set(kustomization) == {"apiVersion", "kind", "resources", "patches"}
    assert kustomization["resources"] == ["../base"]
    (patch,) = kustomization["patches"]
    assert patch["target"] == {"kind": job["kind"], "name": job["metadata"]["name"]}
    for operation in yaml.safe_load(patch["patch"]):
        assert operation["op"] == "replace"
        *parents, last = operation["path"].strip("/").split("/")
        target = job
        for parent in parents:
            target = target[parent]
        assert last in target
        target[last] = operation["value"]
    return job


def groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def only_container(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def quantity(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * UNITS[unit]


@pytest.mark.parametrize("step", STEPS)
def test_every_field_is_one_that_kuberay_knows(step: str) -> None:
    job = render(step)
    assert (job["apiVersion"], job["kind"], job["metadata"]) == ("ray.io/v1", "RayJob", {"name": f"embedmill-{step}"})
    assert set(job["spec"]) <= JOB
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= CLUSTER
    assert set(cluster["headGroupSpec"]) <= HEAD
    for group in groups(job):
        assert set(group) <= (HEAD if group is cluster["headGroupSpec"] else GROUP)
        assert set(group["rayStartParams"]) <= START
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())  # map[string]string
        assert set(group["template"]) == {"metadata", "spec"}
        assert set(group["template"]["spec"]) <= POD
        container = only_container(group)
        assert set(container) <= CONTAINER
        assert all(isinstance(each.get("value"), str) for each in container["env"])
    assert job["spec"]["submissionMode"] in ("HTTPMode", "K8sJobMode")
    # the operator refuses a TTL without this, and each retry must find a new cluster
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    assert job["spec"]["backoffLimit"] > 0


@pytest.mark.parametrize(("step", "names"), STEPS.items())
def test_the_entrypoint_is_made_of_our_commands_with_every_place_in_the_bucket(step: str, names: list[str]) -> None:
    words = shlex.split(render(step)["spec"]["entrypoint"].replace("$EMBEDMILL_DATA", DATA))
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    assert [command[:2] for command in commands] == [["embedmill", name] for name in names]
    for name, command in zip(names, commands, strict=True):
        declared = chain.step(name)
        context = step_command(declared, chain.sections).make_context(name, command[2:])
        for port in (*declared.inputs, *declared.outputs):
            if not port.optional:
                assert context.params[port.name].startswith(f"{DATA}/"), port.name
        assert context.params["params"].startswith("/etc/embedmill/")
        run, _ = parse_sections({}, override({}, context.params["assignments"]), "entrypoint", chain.sections())
        assert (run.executor, run.threads) == ("ray", 1)


def test_each_step_reads_what_the_one_before_wrote() -> None:
    written: dict[str, str] = {}
    for step in STEPS:
        for command in render(step)["spec"]["entrypoint"].split("&&"):
            name, *rest = shlex.split(command)[1:]
            options = dict(zip(rest[::2], rest[1::2], strict=True))
            declared = chain.step(name)
            for port in declared.inputs:
                if not port.optional:
                    assert options[f"--{port.name}"] == written[port.default]
            written |= {port.default: options[f"--{port.name}"] for port in declared.outputs}


@pytest.mark.parametrize("step", STEPS)
def test_no_pod_has_a_privilege_and_secrets_come_by_reference(step: str) -> None:
    for group in groups(render(step)):
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == load("base/account.yaml")["metadata"]["name"] != "default"
        assert pod["automountServiceAccountToken"] is load("base/account.yaml")["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        container = only_container(group)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        env = {each["name"]: each["value"] for each in container["env"]}
        assert env["RAY_USAGE_STATS_ENABLED"] == "0"
        assert not any(re.search("KEY|SECRET|TOKEN|PASSWORD", name) for name in env)
        assert {"secretRef": {"name": "embedmill-s3"}} in container["envFrom"]
        # what is written goes into volumes, for the root is read-only
        volumes = {each["name"]: each for each in pod["volumes"]}
        assert all(set(each) - {"name"} <= {"emptyDir", "configMap"} for each in volumes.values())
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        assert set(mounts.values()) == set(volumes)
        for path in ("/tmp", "/dev/shm", container["workingDir"], env["HOME"]):
            assert "emptyDir" in volumes[mounts[path]]
    text = "".join(path.read_text() for path in ROOT.rglob("*.yaml"))
    assert not re.search(r"privileged|hostPath|hostNetwork|hostPID|hostIPC|serviceAccountName: default", text)


@pytest.mark.parametrize("step", STEPS)
def test_resources_agree_with_what_ray_is_told(step: str) -> None:
    head, *workers = groups(render(step))
    for group in (head, *workers):
        pod = group["template"]["spec"]
        resources = only_container(group)["resources"]
        assert resources["requests"] == resources["limits"]
        shared = next(each["emptyDir"] for each in pod["volumes"] if each["name"] == "shm")
        assert shared["medium"] == "Memory"
        assert int(group["rayStartParams"]["object-store-memory"]) < quantity(shared["sizeLimit"])
        assert quantity(shared["sizeLimit"]) * 4 <= quantity(resources["limits"]["memory"])
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in workers:
        assert (
            group["rayStartParams"]["num-cpus"]
            == group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"]
        )
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_rays_open_ports_are_closed_to_all_but_the_cluster_and_its_operator() -> None:
    policy = load("base/network.yaml")["spec"]
    for group in groups(render("ingest")):
        assert policy["podSelector"]["matchLabels"].items() <= group["template"]["metadata"]["labels"].items()
    inside, operator = policy["ingress"]
    assert inside == {"from": [{"podSelector": policy["podSelector"]}]}
    assert all(each["podSelector"]["matchLabels"] for each in operator["from"])
    assert [each["port"] for each in operator["ports"]] == [8265]


def test_the_base_names_what_there_is_and_the_version_of_ray_that_is_installed() -> None:
    import ray

    base = load("base/kustomization.yaml")
    assert {Path(name).name for name in base["resources"]} == {"account.yaml", "job.yaml", "network.yaml"}
    job = load("base/job.yaml")
    images = {only_container(group)["image"] for group in groups(job)}
    assert images == {image["name"] for image in base["images"]}
    sources = [each for group in groups(job) for each in only_container(group)["envFrom"]]
    references = {each["configMapRef"]["name"] for each in sources if "configMapRef" in each}
    assert references == {each["name"] for each in base["configMapGenerator"]}
    assert f"EMBEDMILL_DATA={DATA}" in (ROOT / "base" / "data.env").read_text().splitlines()
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__
