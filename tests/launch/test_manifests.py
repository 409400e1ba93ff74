"""The objects that the launcher creates: strict by the CRDs, and what each word of them is for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from components.launch import rayjob, trainjob
from components.launch.job import Job, job_name
from tests.fixtures.kubernetes_schemas import Refused, check

JOB = Job(
    name=job_name("finetune", "3f2a91c04d7e" * 4),
    step="finetune",
    command=("torchrun", "-m", "components", "finetune", "--section", "finetune", '{"model": "$(HOME) $$ $x"}'),
    image="train:1",
    nodes=2,
    gpus=8,
    cpu="16",
    memory="256Gi",
    labels={"embedmill.dev/run": "0f9b", "team": "search"},
    env={"EMBEDMILL_RUN_ID": "a$b"},
    queue="gpus",
    priority_class="high",
)


def expanded(value: str) -> str:
    """What a container gets of a word in its manifest, where no variable that is named exists."""
    return value.replace("$$", "$")


def test_a_name_says_the_step_and_what_is_made() -> None:
    assert JOB.name == "embedmill-finetune-3f2a91c04d7e"
    for step in ("ingest", "pretrain", "finetune", "evaluate", "register"):
        assert len(f"{job_name(step, 'f' * 64)}-node-0-9999-abcde") <= 63
        assert len(job_name(step, "f" * 64)) <= 47


def test_a_train_job_is_accepted_and_says_all_of_the_job() -> None:
    thing = trainjob.manifest(JOB)
    check("trainjobs", thing, JOB.name)
    trainer = thing["spec"]["trainer"]
    assert tuple(map(expanded, trainer["command"])) == JOB.command
    assert {each["name"]: expanded(each["value"]) for each in trainer["env"]} == JOB.env
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 8)
    amounts = {"cpu": "16", "memory": "256Gi", "nvidia.com/gpu": "8"}
    assert trainer["resourcesPerNode"] == {"requests": amounts, "limits": amounts}
    labels = {
        "app.kubernetes.io/part-of": "embedmill",
        "app.kubernetes.io/component": "finetune",
        "embedmill.dev/run": "0f9b",
        "team": "search",
    }
    queue = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "high"}
    assert thing["metadata"]["labels"] == labels | queue
    (patch,) = thing["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert node == {"name": "node", "template": {"spec": {"template": {"metadata": {"labels": labels}}}}}


def test_a_train_job_without_gpus_asks_for_none() -> None:
    thing = trainjob.manifest(replace(JOB, gpus=0))
    check("trainjobs", thing, JOB.name)
    assert thing["spec"]["trainer"]["numProcPerNode"] == 1
    assert "nvidia.com/gpu" not in json.dumps(thing)


def test_a_ray_job_is_accepted_and_its_pods_are_confined() -> None:
    thing = rayjob.manifest(replace(JOB, queue=""), workers=3)
    check("rayjobs", thing, JOB.name)
    spec = thing["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert [group[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [3, 3, 3]
    head = spec["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    for template in (head["template"], group["template"], spec["submitterPodTemplate"]):
        pod = template["spec"]
        labels = template["metadata"]["labels"]
        assert (labels["embedmill.dev/job"], labels["team"]) == (JOB.name, "search")
        assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("embedmill-step", False)
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["priorityClassName"] == "high"
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"/work", "/tmp"} <= {each["mountPath"] for each in container["volumeMounts"]}
        assert [next(iter(each)) for each in container["envFrom"]] == ["configMapRef", "secretRef", "secretRef"]


def broken(thing: dict[str, Any], *path: Any, value: Any = None) -> dict[str, Any]:
    """A copy with the value at `path` replaced, or taken away."""
    copy: dict[str, Any] = json.loads(json.dumps(thing))
    place: Any = copy
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


@pytest.mark.parametrize(
    ("path", "value", "status", "words"),
    [
        (("spec", "podTemplateOverrides"), [], 400, 'unknown field "spec.podTemplateOverrides"'),  # up to Trainer 2.1
        (("spec", "trainer", "numProcs"), 2, 400, 'unknown field "spec.trainer.numProcs"'),
        (("spec", "trainer", "numProcPerNode"), "auto", 422, "spec.trainer.numProcPerNode"),
        (("spec", "trainer", "command"), ["x"] * 129, 422, "spec.trainer.command"),
        (("spec", "runtimeRef"), None, 422, "'runtimeRef' is a required property"),
        (("spec", "runtimeRef", "name"), "torch-distributed", 403, "must be created before"),
        (("metadata", "labels"), {"embedmill.dev/run": "x" * 64}, 422, "metadata.labels"),
        (("apiVersion",), "trainer.kubeflow.org/v1alpha2", 422, "apiVersion"),
    ],
)
def test_the_fake_refuses_what_the_cluster_would(path: Any, value: Any, status: int, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        check("trainjobs", broken(trainjob.manifest(JOB), *path, value=value), JOB.name)
    assert refusal.value.status == status
    assert words in str(refusal.value)


def test_the_fake_refuses_pods_that_are_none() -> None:
    thing = rayjob.manifest(JOB, workers=1)
    with pytest.raises(Refused, match="submitterPodTemplate"):
        check("rayjobs", broken(thing, "spec", "submitterPodTemplate", "spec", "runAsUser", value=1), JOB.name)
    with pytest.raises(Refused, match="at most 47"):
        check("rayjobs", thing, "x" * 48)
