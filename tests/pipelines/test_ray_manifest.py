"""The jobs of the data steps on Ray: commands that this package knows, sizes that Ray knows, ports that are closed.

What holds for all manifests, such as fields that the operator knows and no privilege, is in test_kustomize.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest

from components import chain
from components.core.command import parse_sections, step_command
from components.core.settings import override
from tests.pipelines.rendered import LAUNCHED, Pod, pods, render

STEPS = {"ingest": ["sources", "ingest"], "filter": ["filter"], "score": ["score"]}
DATA = "s3://embedmill/data"
START = {"dashboard-host", "num-cpus", "object-store-memory"}  # options of `ray start`
UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}


def job(step: str) -> dict[str, Any]:
    (found,) = [each for each in render(f"ray/{step}") if each["kind"] == "RayJob"]
    return found


def groups(step: str) -> list[dict[str, Any]]:
    cluster = job(step)["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def only_container(group: dict[str, Any]) -> dict[str, Any]:
    (container,) = group["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def quantity(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * UNITS[unit]


@pytest.mark.parametrize("step", STEPS)
def test_the_operator_takes_the_cluster_away_and_finds_a_new_one_for_each_try(step: str) -> None:
    made = job(step)
    assert made["metadata"]["name"] == f"embedmill-{step}"
    assert made["spec"]["submissionMode"] == "HTTPMode"
    # the operator refuses a TTL without this, and each retry must find a new cluster
    assert made["spec"]["shutdownAfterJobFinishes"] is True
    assert made["spec"]["ttlSecondsAfterFinished"] > 0
    assert made["spec"]["backoffLimit"] > 0
    assert all(set(group["rayStartParams"]) <= START for group in groups(step))


@pytest.mark.parametrize(("step", "names"), STEPS.items())
def test_the_entrypoint_is_made_of_our_commands_with_every_place_in_the_bucket(step: str, names: list[str]) -> None:
    words = shlex.split(job(step)["spec"]["entrypoint"].replace("$EMBEDMILL_DATA", DATA))
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
        for command in job(step)["spec"]["entrypoint"].split("&&"):
            name, *rest = shlex.split(command)[1:]
            options = dict(zip(rest[::2], rest[1::2], strict=True))
            declared = chain.step(name)
            for port in declared.inputs:
                if not port.optional:
                    assert options[f"--{port.name}"] == written[port.default]
            written |= {port.default: options[f"--{port.name}"] for port in declared.outputs if not port.optional}


@pytest.mark.parametrize("step", STEPS)
def test_pods_know_the_place_of_the_data_and_the_parameters_and_ray_tells_nobody(step: str) -> None:
    for group in groups(step):
        container = only_container(group)
        env = {each["name"]: each["value"] for each in container["env"]}
        assert (env["EMBEDMILL_DATA"], env["RAY_USAGE_STATS_ENABLED"]) == (DATA, "0")
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        assert container["workingDir"] == "/work"
        assert {"/dev/shm", "/etc/embedmill"} <= set(mounts)


@pytest.mark.parametrize("step", STEPS)
def test_resources_agree_with_what_ray_is_told(step: str) -> None:
    head, *workers = groups(step)
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
        assert group["rayStartParams"]["num-cpus"] == only_container(group)["resources"]["limits"]["cpu"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_rays_open_ports_are_closed_to_all_but_the_cluster_and_its_operator() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in render("base") if each["kind"] == "NetworkPolicy"}
    policy = policies["embedmill-ray"]
    nodes = [pod for pod in pods(render("ray/ingest")) if pod.owner.startswith("RayJob")]
    assert len(nodes) == 2
    assert all(pod.selected(policy["podSelector"]) for pod in nodes)
    inside, dashboard = policy["ingress"]
    assert inside == {"from": [{"podSelector": policy["podSelector"]}]}
    assert [each["port"] for each in dashboard["ports"]] == [8265]
    # no other policy lets anybody in to them
    others = [each for name, each in policies.items() if name != "embedmill-ray" and each.get("ingress")]
    assert not [pod for pod in nodes for each in others if pod.selected(each["podSelector"])]
    stranger = Pod("stranger", {"app.kubernetes.io/part-of": "embedmill"}, {"containers": []})
    assert not [each for each in dashboard["from"] if stranger.selected(each["podSelector"])]


@pytest.mark.parametrize("target", ("ray/ingest", LAUNCHED))
def test_the_version_of_ray_is_the_one_that_is_installed(target: str) -> None:
    import ray

    (made,) = [each for each in render(target) if each["kind"] == "RayJob"]
    assert made["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__
