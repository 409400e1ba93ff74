"""What kustomize makes of pipelines/kubernetes: fields that the APIs take, no privilege, nothing that is not there."""

from __future__ import annotations

import copy
import re
from itertools import chain
from typing import Any

import pytest

from components.core.errors import GateRefused, InputError, UsageError
from components.launch import rayjob, trainjob
from tests.fixtures.custom_resources import KUBERNETES, check
from tests.pipelines.rendered import (
    LAUNCHED,
    OPTIONS,
    ROOT,
    TARGETS,
    Pod,
    Resource,
    pipeline_pods,
    pods,
    render,
)

README = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "ray/README.md"))
PART = {"app.kubernetes.io/part-of": "embedmill"}
# Accounts that are not ours, by the README: Kubeflow Pipelines brings them.
FOREIGN_ACCOUNTS = {"pipeline-runner", "default-editor"}
# Where a volume may come from.
PLACES = {
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "downwardAPI",
    "configMap",
}  # where a volume may come from

everywhere = pytest.mark.parametrize("target", (*TARGETS, LAUNCHED))


def of_kind(target: str, *kinds: str) -> list[Resource]:
    return [each for each in render(target) if each["kind"] in kinds]


def named(target: str, kind: str, name: str) -> Resource:
    (found,) = [each for each in of_kind(target, kind) if each["metadata"]["name"] == name]
    return found


def documented(kind: str) -> dict[str, set[str]]:
    """Secrets or config maps that the README says how to make, with their keys."""
    pattern = rf"kubectl create {kind} (\S+)((?:[^\n]*\\\n)*[^\n]*)"
    return {name: set(re.findall(r"--from-\w+=(\w+)", rest)) for name, rest in re.findall(pattern, README)}


SECRETS, CONFIG_MAPS = documented("secret generic"), documented("configmap")


@everywhere
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_field_is_one_that_its_api_takes(target: str, version: str) -> None:
    for resource in render(target):
        check(resource, version)


def test_a_field_that_no_api_has_is_found_however_deep_it_lies() -> None:
    runtime = copy.deepcopy(named("base", "TrainingRuntime", "embedmill-torch"))
    jobs = runtime["spec"]["template"]["spec"]
    for place, field in (
        (runtime["spec"]["mlPolicy"]["torch"], "numProcPerNode"),
        (jobs, "backoffLimit"),
        (jobs["replicatedJobs"][0]["template"]["spec"], "backofflimit"),
        (jobs["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0], "command_"),
    ):
        place[field] = 1
        with pytest.raises(Exception, match=field):
            check(runtime, KUBERNETES[0])
        del place[field]
    check(runtime, KUBERNETES[0])


@everywhere
def test_nothing_names_a_namespace_and_no_secret_is_in_the_tree(target: str) -> None:
    resources = render(target)
    assert not [each for each in resources if "namespace" in each["metadata"]]
    assert not [each for each in resources if each["kind"] == "Secret"]
    for pod in pods(resources):
        for container in pod.containers:
            for variable in container.get("env", ()):
                if re.search("KEY|SECRET|TOKEN|PASSWORD", variable["name"]) and "value" in variable:
                    assert variable["value"].startswith("/"), variable  # a file's place


@everywhere
def test_no_pod_has_a_privilege(target: str) -> None:
    resources = render(target)
    for pod in pods(resources):
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "shareProcessNamespace"} & set(pod.spec), (
            pod.owner
        )
        security = pod.spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] == security["runAsGroup"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not set(security) - {"runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile"}
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, pod.owner
            assert not {"hostPort", "hostIP"} & set(chain.from_iterable(container.get("ports", ())))


@everywhere
def test_what_is_written_goes_into_volumes_since_the_root_is_read_only(target: str) -> None:
    claims = {each["metadata"]["name"] for each in of_kind(target, "PersistentVolumeClaim")}
    for pod in pods(render(target)):
        if pod.owner.startswith(("EventSource", "Sensor")):
            continue  # Argo Events mounts what they need
        volumes = {each["name"]: each for each in pod.spec["volumes"]}
        assert all(len(set(each) & PLACES) == 1 and len(each) == 2 for each in volumes.values()), pod.owner
        for each in volumes.values():
            if target != LAUNCHED:  # whose data nobody knows beforehand
                assert each.get("emptyDir", {"sizeLimit": ""}).keys() >= {"sizeLimit"}, "a node's disk has an end"
            if "configMap" in each:
                assert each["configMap"]["name"] in CONFIG_MAPS
            if "persistentVolumeClaim" in each:
                assert each["persistentVolumeClaim"]["claimName"] in claims
        for container in pod.containers:
            mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
            assert set(mounts.values()) <= set(volumes)
            assert {"/work", "/tmp"} <= set(mounts)
            assert {"name": "HOME", "value": "/work"} in container["env"]


@everywhere
def test_every_container_says_what_it_needs_and_which_image_exactly(target: str) -> None:
    for pod in pods(render(target)):
        for container in pod.containers:
            for amounts in (container["resources"]["requests"], container["resources"]["limits"]):
                assert {"cpu", "memory"} <= set(amounts), pod.owner
            assert container.get("imagePullPolicy", "IfNotPresent") == "IfNotPresent"
            if not pod.owner.startswith(("EventSource", "Sensor")):
                _, _, tag = container["image"].rpartition("/")[2].partition(":")
                assert tag and tag != "latest", container["image"]


@everywhere
def test_every_account_is_there_and_has_a_token_only_if_it_asks_the_api(target: str) -> None:
    accounts = {each["metadata"]["name"]: each for each in of_kind(target, "ServiceAccount")}
    for pod in pods(render(target)):
        account = accounts[pod.spec["serviceAccountName"]]
        wanted = pod.spec.get("automountServiceAccountToken", account["automountServiceAccountToken"])
        assert wanted is (pod.owner == "Sensor embedmill-feedback"), pod.owner
        if not pod.owner.startswith(("EventSource", "Sensor")):
            assert pod.spec["automountServiceAccountToken"] is False
            # EMBEDMILL_SERVE_PORT would look like one of ours
            assert target == LAUNCHED or pod.spec["enableServiceLinks"] is False
    bound = {subject["name"] for each in of_kind(target, "RoleBinding") for subject in each["subjects"]}
    assert bound <= set(accounts) | FOREIGN_ACCOUNTS
    assert {name for name, each in accounts.items() if each["automountServiceAccountToken"]} <= bound


@everywhere
def test_roles_allow_exactly_what_is_asked_for(target: str) -> None:
    assert not of_kind(target, "ClusterRole", "ClusterRoleBinding")
    roles = {each["metadata"]["name"]: each["rules"] for each in of_kind(target, "Role")}
    for rules in roles.values():
        assert not [rule for rule in rules if "*" in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}]
        for rule in rules:
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"] and rule["verbs"] == ["get"]
    jobs = ["create", "get", "list", "watch", "delete"]
    assert roles["embedmill-train"] == [
        {"apiGroups": ["trainer.kubeflow.org"], "resources": ["trainjobs"], "verbs": jobs},
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": jobs},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    ]
    assert {each["roleRef"]["name"] for each in of_kind(target, "RoleBinding")} == set(roles)


@everywhere
def test_every_secret_and_setting_that_is_referred_to_exists_or_the_readme_says_how_to_make_it(target: str) -> None:
    maps = {each["metadata"]["name"]: set(each["data"]) for each in of_kind(target, "ConfigMap")}
    for pod in pods(render(target)):
        for container in pod.containers:
            for source in container.get("envFrom", ()):
                if "configMapRef" in source:
                    assert source["configMapRef"]["name"] in maps
                else:
                    assert source["secretRef"]["name"] in SECRETS
            for variable in container.get("env", ()):
                if "valueFrom" in variable:
                    reference = variable["valueFrom"]["secretKeyRef"]
                    assert reference["key"] in SECRETS[reference["name"]]
    for source in of_kind(target, "EventSource"):
        for event in source["spec"]["minio"].values():
            for key in (event["accessKey"], event["secretKey"]):
                assert key["key"] in SECRETS[key["name"]]


@everywhere
def test_every_selector_picks_something(target: str) -> None:
    resources = render(target)
    known = [*pods(resources), *pipeline_pods("full.yaml"), *pods(render(LAUNCHED))]
    for each in resources:
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            chosen = [pod for pod in known if pod.selected({"matchLabels": spec["selector"]})]
            ports = {port["name"] for pod in chosen for port in only_container(pod)["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif each["kind"] in ("Deployment", "PodDisruptionBudget"):
            assert [pod for pod in known if pod.selected(spec["selector"])]
        elif each["kind"] == "HorizontalPodAutoscaler":
            goal = spec["scaleTargetRef"]
            assert named(target, goal["kind"], goal["name"])["spec"]["replicas"] == spec["minReplicas"]
        elif each["kind"] == "NetworkPolicy":
            assert [pod for pod in known if pod.selected(spec["podSelector"])], each["metadata"]
            for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
                for peer in rule.get("from", rule.get("to", ())):
                    if set(peer) == {"podSelector"} and "eventbus-name" not in peer["podSelector"]["matchLabels"]:
                        assert [pod for pod in known if pod.selected(peer["podSelector"])]


@everywhere
def test_every_pod_is_closed_to_begin_with(target: str) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(target, "NetworkPolicy")}
    assert policies["embedmill-none"] == {"podSelector": {"matchLabels": PART}, "policyTypes": ["Ingress", "Egress"]}
    assert all(pod.labels.items() >= PART.items() for pod in pods(render(target)))
    for name, policy in policies.items():
        assert set(policy["policyTypes"]) >= {each.capitalize() for each in policy if each in ("ingress", "egress")}
        for rule in (*policy.get("ingress", ()), *policy.get("egress", ())):
            peers = rule.get("from", rule.get("to"))
            assert peers, f"{name}: a rule without peers lets everybody in"
            for peer in peers:
                if peer.get("ipBlock", {}).get("cidr") in ("0.0.0.0/0", "::/0"):
                    assert peer["ipBlock"]["except"] and rule["ports"], "never the cloud's metadata, never every port"
                    assert {port["port"] for port in rule["ports"]} <= {443, 6443, 8443}


@everywhere
def test_probes_and_policies_name_ports_that_containers_have(target: str) -> None:
    for pod in pods(render(target)):
        ports = {port["name"]: port["containerPort"] for each in pod.containers for port in each.get("ports", ())}
        for container in pod.containers:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container:
                    assert container[probe]["httpGet"]["port"] in ports
    for name in ("serve", "s3", "mlflow"):
        chosen = [pod for pod in pods(render(target)) if pod.labels.get("app.kubernetes.io/component") == name]
        for pod in chosen:
            (allowed,) = named(target, "NetworkPolicy", f"embedmill-{name}")["spec"]["ingress"]
            assert [port["port"] for port in allowed["ports"]] == [
                port["containerPort"] for port in only_container(pod)["ports"]
            ]


@pytest.mark.parametrize("target", ("base", "overlays/gpu", "options/scratch", "options/priority"))
def test_nodes_of_a_trainjob_have_what_trainer_and_torchrun_look_for(target: str) -> None:
    spec = named(target, "TrainingRuntime", "embedmill-torch")["spec"]
    (job,) = spec["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"  # Trainer makes PET_MASTER_ADDR of it
    assert job["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    (pod,) = pods((named(target, "TrainingRuntime", "embedmill-torch"),))
    container = only_container(pod)
    assert container["name"] == "node"
    assert "command" not in container  # the TrainJob's
    # each node may come back, whichever it is; what was refused is not tried again
    rules = job["template"]["spec"]
    assert (rules["completionMode"], rules["maxFailedIndexes"], pod.spec["restartPolicy"]) == ("Indexed", 0, "Never")
    assert rules["backoffLimitPerIndex"] > 0
    refused, disrupted = rules["podFailurePolicy"]["rules"]
    codes = [each.exit_code for each in (UsageError, InputError, GateRefused)]
    assert refused == {
        "action": "FailJob",
        "onExitCodes": {"containerName": "node", "operator": "In", "values": codes},
    }
    assert disrupted["action"] == "Ignore"
    shared = next(each["emptyDir"] for each in pod.spec["volumes"] if each["name"] == "shm")
    assert shared["medium"] == "Memory"
    assert bytes_of(shared["sizeLimit"]) * 4 <= bytes_of(container["resources"]["limits"]["memory"])  # it counts


def test_gpus_are_asked_for_where_there_are_any() -> None:
    (pod,) = pods((named("overlays/gpu", "TrainingRuntime", "embedmill-torch"),))
    resources = only_container(pod)["resources"]
    assert resources["limits"] == resources["requests"]
    assert int(resources["limits"]["nvidia.com/gpu"]) > 0
    assert pod.spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert [each["key"] for each in pod.spec["tolerations"]] == ["nvidia.com/gpu"]
    quota = named("overlays/gpu", "ResourceQuota", "embedmill")["spec"]["hard"]
    assert int(quota["requests.nvidia.com/gpu"]) >= 2 * int(resources["limits"]["nvidia.com/gpu"])
    assert only_container(pod)["image"].endswith("-cuda")


def test_the_local_overlay_needs_nothing_else() -> None:
    # kinds that an operator would have to bring
    assert {each["apiVersion"].partition("/")[0] for each in render("overlays/local")} <= {
        "apps", "batch", "networking.k8s.io", "rbac.authorization.k8s.io", "v1",
    }  # fmt: skip
    settings = named("overlays/local", "ConfigMap", "embedmill-settings")["data"]
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind("overlays/local", "Service")}
    for key, name in (("AWS_ENDPOINT_URL", "embedmill-s3"), ("MLFLOW_TRACKING_URI", "embedmill-mlflow")):
        (port,) = services[name]["ports"]
        assert settings[key] == f"http://{name}:{port['port']}"
    (mlflow,) = [pod for pod in pods(render("overlays/local")) if pod.labels.get("app.kubernetes.io/name") == "mlflow"]
    # MLflow refuses hosts that it is not told of
    assert "--allowed-hosts=embedmill-mlflow:*,localhost:*" in only_container(mlflow)["command"]
    (s3,) = [pod for pod in pods(render("overlays/local")) if pod.labels.get("app.kubernetes.io/name") == "seaweedfs"]
    # its other parts know no password
    assert {"-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0", "-master.telemetry=false"} <= set(
        only_container(s3)["command"]
    )
    assert {"secretRef": {"name": "embedmill-s3"}} in only_container(s3)["envFrom"]


def test_feedback_starts_the_very_job_that_the_schedule_starts() -> None:
    target = "options/argo-events"
    scheduled = named(target, "CronJob", "embedmill-poller")["spec"]
    assert scheduled["concurrencyPolicy"] == "Forbid"
    sensor = named(target, "Sensor", "embedmill-feedback")["spec"]
    (trigger,) = sensor["triggers"]
    job = trigger["template"]["k8s"]["source"]["resource"]
    assert job["spec"] == scheduled["jobTemplate"]["spec"]
    source = named(target, "EventSource", "embedmill-feedback")
    (dependency,) = sensor["dependencies"]
    assert dependency["eventSourceName"] == source["metadata"]["name"]
    (event,) = source["spec"]["minio"].items()
    assert event[0] == dependency["eventName"]
    place = f"s3://{event[1]['bucket']['name']}/{event[1]['filter']['prefix']}".rstrip("/")
    (poller,) = pods((job,))
    assert f"--set=flywheel.feedback={place}" in only_container(poller)["command"]


def test_runs_have_the_account_that_may_start_jobs_and_the_poller_may_name_it() -> None:
    (poller,) = pods((named("base", "CronJob", "embedmill-poller"),))
    (option,) = [word for word in only_container(poller)["command"] if word.startswith("--service-account=")]
    account = option.partition("=")[2]
    assert set(re.findall(r"embedmill submit .*--service-account (\S+)", README)) == {account}
    bindings = [
        each
        for each in of_kind("base", "RoleBinding")
        if {"kind": "ServiceAccount", "name": account} in each["subjects"]
    ]
    assert {each["roleRef"]["name"] for each in bindings} == {"embedmill-run", "embedmill-train"}
    uses = [each for each in named("base", "Role", "embedmill-poller")["rules"] if each["verbs"] == ["use"]]
    assert uses == [{"apiGroups": [""], "resources": ["serviceaccounts"], "resourceNames": [account], "verbs": ["use"]}]


def test_a_step_starts_its_jobs_of_the_runtime_and_with_the_rights_that_there_are() -> None:
    (job,) = of_kind(LAUNCHED, "TrainJob")
    reference = job["spec"]["runtimeRef"]
    runtime = named("base", reference["kind"], reference["name"])
    (patched,) = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert [each["name"] for each in runtime["spec"]["template"]["spec"]["replicatedJobs"]] == [patched["name"]]
    allowed = {
        (group, resource)
        for rule in named("base", "Role", "embedmill-train")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert {(kind.group, kind.plural) for kind in (rayjob.KIND, trainjob.KIND)} <= allowed
    queue = named("options/queue", "LocalQueue", "embedmill")
    assert {
        each["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] for each in of_kind(LAUNCHED, "TrainJob", "RayJob")
    } == {queue["metadata"]["name"]}


def test_the_pod_that_submits_a_job_reaches_the_head_of_its_cluster() -> None:
    (submitter,) = [pod for pod in pods(render(LAUNCHED)) if pod.owner.endswith("submitter")]
    ray = named("base", "NetworkPolicy", "embedmill-ray")["spec"]
    assert [
        rule["ports"] for rule in ray["ingress"] for peer in rule["from"] if submitter.selected(peer["podSelector"])
    ] == [[{"protocol": "TCP", "port": 8265}]]
    own = named("base", "NetworkPolicy", "embedmill-ray-submitter")["spec"]
    assert submitter.selected(own["podSelector"])
    assert own["egress"] == [
        {"to": [{"podSelector": ray["podSelector"]}], "ports": [{"protocol": "TCP", "port": 8265}]}
    ]


def test_every_overlay_takes_the_options_that_it_names() -> None:
    text = (ROOT / "overlays" / "gpu" / "kustomization.yaml").read_text(encoding="utf-8")
    offered = set(re.findall(r"- \.\./\.\./(options/\S+)", text))
    assert offered == set(OPTIONS)


def only_container(pod: Pod) -> dict[str, Any]:
    (container,) = pod.containers
    return container


def bytes_of(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    return int(number) << {"Mi": 20, "Gi": 30, "Ti": 40}[unit]
