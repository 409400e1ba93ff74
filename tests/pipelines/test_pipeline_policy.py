"""Compiled pipelines ask for no privilege and name only what the manifests or their README provide.

What a pipeline cannot say, Kubeflow Pipelines does for every pod of a run: no escalation of privileges, no
capabilities, seccomp's default.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conftest import PROJECT
from tests.pipelines.rendered import ROOT, Pod, documents, pipeline_pods, render

PIPELINES = sorted(path.name for path in (PROJECT / "pipelines").glob("*.yaml"))
SETTINGS = (ROOT / "base" / "settings.env").read_text(encoding="utf-8")  # those that need not be are commented out
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Of kfp-kubernetes' executor configuration. A volume claim, a host path or a secret as a file would be something else.
CONFIGURATION = {
    "activeDeadlineSeconds", "configMapAsEnv", "emptyDirMounts", "fieldPathAsEnv", "nodeSelector", "podMetadata",
    "secretAsEnv", "securityContext", "tolerations",
}  # fmt: skip


def every_pod() -> list[Any]:
    return [
        pytest.param(pod, id=f"{pipeline}:{pod.owner}") for pipeline in PIPELINES for pod in pipeline_pods(pipeline)
    ]


# What the backend's launcher replaces in a command line (getPlaceholders in backend/src/v2/component/launcher_v2.go);
# kfp's local runner replaces more: the run's id, the file of the executor's output, {"Concat": …}.
PLACEHOLDER = re.compile(
    r"\{\{\$(\.inputs\.(parameters\['\w+'\]|artifacts\['\w+'\]\.(uri|path))"
    r"|\.outputs\.(parameters\['\w+'\]\.output_file|artifacts\['\w+'\]\.(uri|path)))?\}\}"
)
each_pod = pytest.mark.parametrize("pod", every_pod())


@each_pod
def test_a_task_has_no_privilege_and_writes_into_folders_of_its_own(pod: Pod) -> None:
    assert set(pod.spec) - {"containers"} <= CONFIGURATION
    assert pod.spec["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
    mounts = {each["mountPath"]: each.get("medium") for each in pod.spec["emptyDirMounts"]}
    assert {"/work", "/tmp"} <= set(mounts) <= {"/work", "/tmp", "/dev/shm"}
    assert mounts.get("/dev/shm", "Memory") == "Memory"
    assert int(pod.spec["activeDeadlineSeconds"]) > 0


@each_pod
def test_a_task_says_what_it_needs_and_which_image_exactly(pod: Pod) -> None:
    (container,) = pod.containers
    assert {"resourceCpuLimit", "resourceMemoryLimit"} <= set(container["resources"])
    _, _, tag = container["image"].rpartition("/")[2].partition(":")
    assert tag and tag != "latest"


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_costs_of_a_task_can_be_told_by_pipeline_and_step(pipeline: str) -> None:
    for pod in pipeline_pods(pipeline):
        labels = pod.spec["podMetadata"]["labels"]
        assert labels["embedmill.dev/pipeline"] == pipeline.removesuffix(".yaml")
        assert labels["app.kubernetes.io/part-of"] == "embedmill" and labels["app.kubernetes.io/component"]
        (container,) = pod.containers
        if "--labels" in container["args"]:  # it may start a job
            fields = {each["name"]: each["fieldPath"] for each in pod.spec["fieldPathAsEnv"]}
            assert fields["EMBEDMILL_PIPELINE"] == "metadata.labels['embedmill.dev/pipeline']"


@each_pod
def test_a_task_takes_keys_and_settings_by_references_that_exist(pod: Pod) -> None:
    settings = set(re.findall(r"^(?:# )?(\w+)=", SETTINGS, re.MULTILINE))
    for source in pod.spec["configMapAsEnv"]:
        assert (source["configMapName"], source["optional"]) == ("embedmill-settings", True)
        assert {each["configMapKey"] for each in source["keyToEnv"]} == settings
    for source in pod.spec["secretAsEnv"]:
        assert f"kubectl create secret generic {source['secretName']}" in README
        for each in source["keyToEnv"]:
            assert f"--from-literal={each['secretKey']}=" in README, each["secretKey"]
    (container,) = pod.containers
    names = [each["name"] for each in container.get("env", ())]
    assert not [name for name in names if re.search("KEY|SECRET|TOKEN|PASSWORD", name)]


@each_pod
def test_a_task_is_closed_but_for_what_a_run_needs(pod: Pod) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in render("base") if each["kind"] == "NetworkPolicy"}
    chosen = {name for name, policy in policies.items() if pod.selected(policy["podSelector"])}
    needed = {"embedmill-none", "embedmill-outside", "embedmill-stores", "embedmill-run"}
    if pod.spec["podMetadata"]["labels"]["app.kubernetes.io/component"] == "poller":  # it starts other runs
        needed.add("embedmill-poller")
    assert chosen == needed
    assert pod.spec["podMetadata"]["annotations"]["sidecar.istio.io/inject"] == "false"


@each_pod
def test_a_command_line_asks_for_nothing_that_only_the_local_runner_replaces(pod: Pod) -> None:
    (container,) = pod.containers
    for argument in [*container["command"], *container["args"]]:
        rest = PLACEHOLDER.sub("", argument)
        assert "{{$" not in rest and "Concat" not in rest, argument


@pytest.mark.parametrize("name", PIPELINES)
def test_a_limit_by_a_parameter_is_given_as_text(name: str) -> None:
    """Of a number the backend's driver takes the empty string, which is no limit: no GPU at all."""
    spec, _ = documents(name)
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    wanted = {key for key in parameters if re.fullmatch(r"(data|train)_(cpu|memory|gpus)", key)}
    assert {parameters[key]["parameterType"] for key in wanted} <= {"STRING"}


def test_no_pipeline_holds_a_secret() -> None:
    for name in PIPELINES:
        text = (PROJECT / "pipelines" / name).read_text(encoding="utf-8")
        assert not re.search(r"privileged|hostPath|pvcMount|imagePullPolicy: Always", text)
        assert len(documents(name)) == 2
