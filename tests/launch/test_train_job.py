"""The launcher of a TrainJob, as a process, against a strict fake of the Kubernetes API."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from components.core.labels import PIPELINE
from components.launch.job import RUN
from tests.fixtures.fake_kubernetes import ACCOUNT, FakeKubernetes
from tests.launch.process import JOB, Launcher

Launch = Callable[..., Launcher]
NAME = JOB.name
TAIL = 50


def made(cluster: FakeKubernetes) -> int:
    """How many jobs were asked for."""
    return sum(line.startswith("POST") for line in cluster.seen)


def gone(cluster: FakeKubernetes) -> bool:
    return not cluster.objects["trainjobs"] and not cluster.objects["pods"]


def succeed(cluster: FakeKubernetes, *pods: str) -> None:
    for pod in pods:
        cluster.end(pod, 0)
    cluster.complete(NAME)


def break_down(cluster: FakeKubernetes) -> None:
    """The second node fails by itself, the first one loses it and is done before anyone looks."""
    first, second = cluster.start_nodes(NAME)
    cluster.write(second, *(f"word {number}" for number in range(60)))
    cluster.write(first, "the other one is gone")
    cluster.end(first, 1)
    cluster.end(second, 139)
    cluster.fail(NAME)


def test_a_job_is_created_followed_and_taken_away(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    first, second = cluster.start_nodes(NAME)
    cluster.write(first, "step 1", "step 2")
    cluster.write(second, "step 1 too", "", "  indented")
    succeed(cluster, first, second)
    assert launcher.end() == 0, launcher.lines
    assert launcher.marked(0) == ["step 1", "step 2"]
    assert launcher.marked(1) == ["step 1 too", "", "  indented"]
    cluster.until(lambda: gone(cluster))


def test_lines_come_while_the_job_goes_on(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    (pod,) = cluster.start_nodes(NAME, 1)
    cluster.write(pod, "step 1")
    launcher.wait_for("[0] step 1")
    cluster.write(pod, "step 2")
    launcher.wait_for("[0] step 2")


# a launcher that is killed, and the one after it


def test_the_next_launcher_adopts_the_job_of_one_that_was_killed(cluster: FakeKubernetes, launch: Launch) -> None:
    killed = launch()
    uid = cluster.job()["metadata"]["uid"]
    pods = cluster.start_nodes(NAME)
    cluster.write(pods[0], "step 1")
    killed.wait_for("step 1")
    killed.process.kill()
    cluster.write(pods[0], "step 2")
    launcher = launch()
    launcher.wait_for("step 2")
    cluster.write(pods[0], "step 3")
    assert cluster.job()["metadata"]["uid"] == uid
    succeed(cluster, *pods)
    assert launcher.end() == 0
    assert launcher.marked(0) == ["step 1", "step 2", "step 3"]
    assert made(cluster) == 1


def test_the_next_launcher_finds_a_job_that_is_done(cluster: FakeKubernetes, launch: Launch) -> None:
    killed = launch()
    cluster.job()
    killed.process.kill()
    pods = cluster.start_nodes(NAME)
    cluster.write(pods[1], "all done")
    succeed(cluster, *pods)
    launcher = launch()
    assert launcher.end() == 0
    assert launcher.marked(1) == ["all done"]
    assert made(cluster) == 1


def test_a_second_attempt_is_still_the_second_after_the_launcher_was_killed(
    cluster: FakeKubernetes, launch: Launch
) -> None:
    killed = launch()
    cluster.job()
    break_down(cluster)
    killed.wait_for("creating it again")
    cluster.until(lambda: made(cluster) == 2)
    cluster.job()
    killed.process.kill()
    launcher = launch()
    launcher.wait_for("followed from here")
    break_down(cluster)
    assert launcher.end() == 1
    assert made(cluster) == 2


def test_two_runs_that_ask_for_the_same_follow_one_job(cluster: FakeKubernetes, launch: Launch) -> None:
    first = launch(labels={RUN: "one", "team": "search"})
    cluster.job()
    second = launch(labels={RUN: "two", PIPELINE: "sweep", "image": "other"})
    second.wait_for("followed from here")
    cluster.condition(NAME, "Suspended", "True", "Suspended", "")
    for launcher in (first, second):  # each has seen the job before one of them deletes it
        launcher.wait_for("suspended")
    succeed(cluster, *cluster.start_nodes(NAME))
    assert (first.end(), second.end()) == (0, 0)
    assert made(cluster) == 1


def test_another_job_of_the_same_name_goes_first(cluster: FakeKubernetes, launch: Launch) -> None:
    launch(image="train:0").wait_for("created")
    cluster.job()
    pods = cluster.start_nodes(NAME)
    cluster.holds.set()
    launcher = launch()
    launcher.wait_for("another job has this name")
    cluster.until(lambda: "deletionTimestamp" in cluster.objects["trainjobs"][NAME]["metadata"])
    assert made(cluster) == 1
    cluster.holds.clear()
    assert cluster.job()["spec"]["trainer"]["image"] == JOB.image
    assert not set(pods) & set(cluster.objects["pods"])
    launcher.wait_for("created")


def test_a_job_that_is_being_deleted_is_waited_for(cluster: FakeKubernetes, launch: Launch) -> None:
    stopped = launch()
    uid = cluster.job()["metadata"]["uid"]
    cluster.holds.set()
    stopped.process.terminate()
    cluster.until(lambda: "deletionTimestamp" in cluster.objects["trainjobs"][NAME]["metadata"])
    stopped.process.kill()
    launcher = launch()
    launcher.wait_for("waiting until its pods are gone")
    cluster.holds.clear()
    assert cluster.job()["metadata"]["uid"] != uid


# an API that fails


ROUTES = {
    "get": f"GET /apis/.*/trainjobs/{NAME}",
    "create": "POST",
    "list of jobs": "GET /apis/.*/trainjobs.fieldSelector=[^&]*$",
    "watch of jobs": "GET /apis/.*/trainjobs.*watch",
    "list of pods": "GET /api/v1/.*/pods.labelSelector=[^&]*$",
    "watch of pods": "GET /api/v1/.*/pods.*watch",
    "pod": "GET /api/v1/.*/pods/[^/]*$",
    "log": "GET /api/v1/.*/log",
    "delete": "DELETE",
}
TROUBLES = {
    "500": {"kind": "status", "status": 500},
    "429": {"kind": "status", "status": 429, "retry_after": "0"},
    "502 of a proxy": {"kind": "page", "status": 502},
    "503": {"kind": "status", "status": 503},
    "cut": {"kind": "cut"},
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_with_every_route_passes(cluster: FakeKubernetes, launch: Launch, trouble: str) -> None:
    for pattern in ROUTES.values():
        cluster.trouble(times=3, matches=pattern, **TROUBLES[trouble])  # type: ignore[arg-type]
    launcher = launch()
    cluster.job()
    pods = cluster.start_nodes(NAME)
    for number in range(20):
        cluster.write(pods[number % 2], f"line {number}")
    launcher.wait_for("line 19")
    succeed(cluster, *pods)
    assert launcher.end() == 0, launcher.lines
    assert launcher.marked(0) == [f"line {number}" for number in range(0, 20, 2)]
    assert launcher.marked(1) == [f"line {number}" for number in range(1, 20, 2)]
    assert sum("the Kubernetes API does not answer" in line for line in launcher.lines) == 1
    assert made(cluster) == 4
    cluster.until(lambda: gone(cluster))


def test_an_answer_that_does_not_come_is_asked_for_again(cluster: FakeKubernetes, launch: Launch) -> None:
    cluster.trouble("stall", matches=ROUTES["create"])
    launcher = launch()
    cluster.job()
    launcher.wait_for("created")


def test_a_lost_answer_to_the_creation_makes_no_second_job(cluster: FakeKubernetes, launch: Launch) -> None:
    cluster.trouble("lost", matches=ROUTES["create"])
    launcher = launch()
    launcher.wait_for("followed from here")
    assert made(cluster) == 2  # the second is refused with 409
    assert len(cluster.objects["trainjobs"]) == 1


def test_a_lost_answer_to_the_deletion_is_no_failure(cluster: FakeKubernetes, launch: Launch) -> None:
    cluster.trouble("lost", matches=ROUTES["delete"])
    launcher = launch()
    cluster.job()
    succeed(cluster, *cluster.start_nodes(NAME))
    assert launcher.end() == 0


def test_a_watch_that_is_too_old_begins_anew(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    pods = cluster.start_nodes(NAME)
    cluster.write(pods[0], "before")
    launcher.wait_for("before")
    for number in range(3):
        cluster.forget()
        lists = sum("watch" not in line and "labelSelector" in line for line in cluster.seen)
        cluster.until(lambda: sum("watch" not in line and "labelSelector" in line for line in cluster.seen) > lists)  # noqa: B023
        cluster.write(pods[0], f"after {number}")
    succeed(cluster, *pods)
    assert launcher.end() == 0
    assert launcher.marked(0) == ["before", "after 0", "after 1", "after 2"]


def test_a_watch_that_is_cut_goes_on_where_it_was(cluster: FakeKubernetes, launch: Launch) -> None:
    cluster.trouble("truncate", times=5, matches="watch", after=700)
    launcher = launch()
    cluster.job()
    pods = cluster.start_nodes(NAME)
    cluster.write(pods[0], "here")
    launcher.wait_for("here")
    succeed(cluster, *pods)
    assert launcher.end() == 0


@pytest.mark.parametrize("kind", ["truncate", "stop"])
@pytest.mark.parametrize("step", [0, 1, 400_000], ids=["all at once", "a microsecond", "several a second"])
def test_lines_are_neither_lost_nor_repeated_when_logs_are_cut(
    cluster: FakeKubernetes, launch: Launch, step: int, kind: Literal["truncate", "stop"]
) -> None:
    for after in (1, 31, 32, 100, 333, 334, 1000, 1500):  # in the time, between lines, in a line
        cluster.trouble(kind, matches=ROUTES["log"], after=after)
    launcher = launch()
    cluster.job()
    (pod,) = cluster.start_nodes(NAME, 1)
    words = [f"line {number}" if number % 3 else "the same" for number in range(120)]
    cluster.write(pod, *words[:60], step=timedelta(microseconds=step))
    launcher.wait_for("line 59")
    cluster.write(pod, *words[60:], step=timedelta(microseconds=step))
    succeed(cluster, pod)
    assert launcher.end() == 0
    assert launcher.marked(0) == words


def test_the_last_lines_are_read_though_the_last_connection_was_cut(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    (pod,) = cluster.start_nodes(NAME, 1)
    cluster.write(pod, "first")
    launcher.wait_for("first")
    cluster.trouble("status", times=4, matches=ROUTES["log"], status=500)
    cluster.write(pod, "half of it")
    cluster.write(pod, "the end, without a newline", newline="")
    succeed(cluster, pod)
    assert launcher.end() == 0
    assert launcher.marked(0) == ["first", "half of it", "the end, without a newline"]


# credentials


def test_a_replaced_token_is_read_again(cluster: FakeKubernetes, launch: Launch, tmp_path: Path) -> None:
    launcher = launch()
    cluster.job()
    pods = cluster.start_nodes(NAME)
    cluster.write(pods[0], "before")
    launcher.wait_for("before")
    (tmp_path / "token").write_text("second-token")
    cluster.tokens = {"second-token"}
    cluster.forget()
    cluster.write(pods[0], "after")
    succeed(cluster, *pods)
    assert launcher.end() == 0
    assert launcher.marked(0) == ["before", "after"]


def test_credentials_that_stay_wrong_are_said_to_be(cluster: FakeKubernetes, launch: Launch) -> None:
    cluster.tokens = {"of-somebody-else"}
    launcher = launch()
    assert launcher.end() == 3
    assert "refuses this pod's credentials" in launcher.lines[-1]


# a cluster that refuses


@pytest.mark.parametrize("verb", ["get", "create", "list", "watch"])
def test_a_role_without_a_verb_is_named(cluster: FakeKubernetes, launch: Launch, verb: str) -> None:
    cluster.role["trainjobs"].remove(verb)
    launcher = launch()
    assert launcher.end() == 3
    assert f'User "{ACCOUNT}" cannot {verb} resource "trainjobs"' in launcher.lines[-1]


@pytest.mark.parametrize(
    ("resource", "verb"), [("pods", "list"), ("pods", "get"), ("pods", "watch"), ("pods/log", "get")]
)
def test_a_job_whose_pods_may_not_be_seen_is_not_left_behind(
    cluster: FakeKubernetes, launch: Launch, resource: str, verb: str
) -> None:
    cluster.role[resource].remove(verb)
    launcher = launch()
    cluster.until(lambda: NAME in cluster.objects["trainjobs"])
    cluster.start_nodes(NAME)
    assert launcher.end() == 3
    assert f'User "{ACCOUNT}" cannot {verb} resource "{resource}"' in launcher.lines[-1]
    cluster.until(lambda: gone(cluster))


def test_a_cluster_without_trainer_is_told_apart(cluster: FakeKubernetes, launch: Launch) -> None:
    cluster.installed.remove("trainjobs")
    launcher = launch()
    assert launcher.end() == 3
    assert launcher.lines == [
        "embedmill: Kubeflow Trainer v2 is not installed in this cluster: "
        "its API knows no trainjobs in trainer.kubeflow.org/v1alpha1"
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"memory": "8 GB"}, "spec.trainer.resourcesPerNode.limits.memory: Invalid value: '8 GB'"),
        ({"labels": {"embedmill.dev/run": "a b"}}, "'a b'"),
        ({"env": {"PET_NNODES": "2"}}, "must not have reserved envs"),
    ],
)
def test_what_the_api_says_of_a_wrong_job_is_passed_on(
    cluster: FakeKubernetes, launch: Launch, changes: dict[str, object], words: str
) -> None:
    launcher = launch(**changes)
    assert launcher.end() == (3 if "env" in changes else 2)  # a webhook's denial is a 403
    assert len(launcher.lines) == 1
    assert words in launcher.lines[0]


def test_no_cluster_at_all_is_one_clear_line(cluster: FakeKubernetes, launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").unlink()
    launcher = launch()
    assert launcher.end() == 3
    assert launcher.lines[0].startswith("embedmill: no Kubernetes cluster: neither a pod's service account nor")


# signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_deletes_the_job(cluster: FakeKubernetes, launch: Launch, number: signal.Signals) -> None:
    launcher = launch()
    cluster.job()
    cluster.start_nodes(NAME)
    launcher.wait_for("created")
    os.kill(launcher.process.pid, number)
    assert launcher.end() == 5
    assert gone(cluster)
    assert "goes on from its last checkpoint" in launcher.lines[-1]


def test_a_signal_deletes_the_job_through_an_api_that_fails(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    launcher.wait_for("created")
    cluster.trouble("status", times=10, status=503)
    launcher.process.terminate()
    assert launcher.end() == 5
    assert gone(cluster)


def test_a_signal_before_the_job_is_there_leaves_nothing(cluster: FakeKubernetes, launch: Launch) -> None:
    cluster.trouble("status", times=1000, matches="POST")
    launcher = launch()
    launcher.wait_for("does not answer")
    launcher.process.terminate()
    assert launcher.end() == 5
    assert gone(cluster)


def test_a_signal_between_the_job_and_its_answer_leaves_nothing(cluster: FakeKubernetes, launch: Launch) -> None:
    cluster.trouble("lost", matches="POST")
    cluster.trouble("status", times=1000, matches="POST")
    launcher = launch()
    cluster.until(lambda: made(cluster) > 2)
    launcher.process.terminate()
    assert launcher.end() == 5
    assert gone(cluster)


def test_a_second_sigterm_does_not_end_the_deletion(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    launcher.wait_for("created")
    cluster.trouble("status", times=5, status=503)
    launcher.process.terminate()
    cluster.until(lambda: any(line.startswith("DELETE") for line in cluster.seen))
    launcher.process.terminate()
    assert launcher.end() == 5
    assert gone(cluster)


def test_the_end_of_whoever_started_the_launcher_deletes_the_job(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch(below_another=True)
    cluster.job()
    cluster.start_nodes(NAME)
    launcher.wait_for("created")
    launcher.process.kill()
    cluster.until(lambda: gone(cluster))


def test_a_launcher_that_nobody_listens_to_deletes_the_job(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    pods = cluster.start_nodes(NAME)
    cluster.write(pods[0], "heard")
    launcher.wait_for("heard")
    launcher.stop_listening()

    def gone_unheard() -> bool:
        cluster.write(pods[0], "unheard")
        return gone(cluster)

    cluster.until(gone_unheard)


def test_pods_that_do_not_end_in_time_are_named(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    launcher.wait_for("created")
    cluster.holds.set()
    launcher.process.terminate()
    assert launcher.end() == 5
    assert f"kubectl delete trainjobs {NAME}" in launcher.lines[-2]


# failures


def test_a_failed_job_is_created_again_once(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    uid = cluster.job()["metadata"]["uid"]
    break_down(cluster)
    cluster.until(lambda: cluster.objects["trainjobs"].get(NAME, {"metadata": {"uid": uid}})["metadata"]["uid"] != uid)
    pods = cluster.start_nodes(NAME)
    cluster.write(pods[0], "this time")
    succeed(cluster, *pods)
    assert launcher.end() == 0
    assert launcher.marked(0)[-1] == "this time"
    assert sum("creating it again, once" in line for line in launcher.lines) == 1


def test_a_job_that_fails_again_ends_with_the_lines_of_the_rank_at_fault(
    cluster: FakeKubernetes, launch: Launch
) -> None:
    launcher = launch()
    cluster.job()
    break_down(cluster)
    cluster.until(lambda: made(cluster) == 2)
    cluster.job()
    break_down(cluster)
    assert launcher.end() == 1
    assert made(cluster) == 2
    *tail, last = launcher.lines[-TAIL - 2 :]
    assert tail[0].startswith(f"TrainJob {NAME}: the last {TAIL} lines of rank 1 (pod {NAME}-node-0-1-")
    assert tail[1:] == [f"[1] word {number}" for number in range(10, 60)]
    assert last.startswith(f"embedmill: TrainJob {NAME}: failed (FailedJobs: jobset failed due to one or more job")
    assert "rank 1 (pod" in last and last.endswith("ended with exit code 139")
    cluster.until(lambda: gone(cluster))


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_would_end_the_same_is_not_tried_again(cluster: FakeKubernetes, launch: Launch, code: int) -> None:
    launcher = launch()
    cluster.job()
    first, second = cluster.start_nodes(NAME)
    cluster.write(second, "embedmill: finetune.epochs: must be positive")
    cluster.end(second, code)
    cluster.end(first, 1)
    cluster.fail(NAME)
    assert launcher.end() == code
    assert made(cluster) == 1
    assert launcher.lines[-2] == "[1] embedmill: finetune.epochs: must be positive"


def test_a_rank_out_of_memory_is_at_fault_and_said_to_be(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    for attempt in (1, 2):
        cluster.until(lambda: made(cluster) == attempt)  # noqa: B023
        cluster.job()
        first, second = cluster.start_nodes(NAME)
        cluster.end(first, 137)
        cluster.end(second, 137, "OOMKilled")
        cluster.fail(NAME)
    assert launcher.end() == 1
    assert "rank 1 (pod" in launcher.lines[-1]
    assert launcher.lines[-1].endswith("ended with exit code 137 (OOMKilled)")


def test_a_job_without_pods_fails_with_what_its_controller_says(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    for attempt in (1, 2):
        cluster.until(lambda: made(cluster) == attempt)  # noqa: B023
        cluster.job()
        cluster.condition(NAME, "Failed", "True", "TrainingRuntimeNotSupported", "the runtime is not supported")
    assert launcher.end() == 1
    assert launcher.lines[-1].endswith("failed (TrainingRuntimeNotSupported: the runtime is not supported)")


def test_a_lost_node_is_said_and_its_successor_followed(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    first, second = cluster.start_nodes(NAME)
    cluster.write(second, "step 1")
    launcher.wait_for("[1] step 1")
    cluster.evict(second, "The node was low on resource: memory.")
    cluster.remove(second)
    (third,) = cluster.start_nodes(NAME, ranks=(1,))
    cluster.write(third, "step 2")
    succeed(cluster, first, third)
    assert launcher.end() == 0
    assert launcher.marked(1) == ["step 1", "step 2"]
    said = f"TrainJob {NAME}: rank 1 (pod {second}) was lost (Evicted: The node was low on resource: memory.)"
    assert launcher.lines.count(said) == 1


def test_the_lines_of_a_container_that_was_started_again_are_complete(cluster: FakeKubernetes, launch: Launch) -> None:
    cluster.trouble("truncate", matches=ROUTES["log"], after=10)
    cluster.trouble("stop", matches=ROUTES["log"], after=len("2026-01-01T00:00:01.100000789Z step 1\n"))
    cluster.trouble("status", times=1000, matches=ROUTES["log"])
    launcher = launch()
    cluster.job()
    (pod,) = cluster.start_nodes(NAME, 1)
    cluster.write(pod, "step 1")
    launcher.wait_for("step 1")
    cluster.write(pod, "its last words")
    cluster.end(pod, 1, restart=True)
    cluster.write(pod, "step 2")
    cluster.calm()
    launcher.wait_for("step 2")
    succeed(cluster, pod)
    assert launcher.end() == 0
    assert launcher.marked(0) == ["step 1", "its last words", "step 2"]


def test_a_job_that_somebody_else_has_made_since_is_left_alone(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    pods = cluster.start_nodes(NAME)
    cluster.trouble("status", times=1000, matches="DELETE")
    succeed(cluster, *pods)
    cluster.until(lambda: any(line.startswith("DELETE") for line in cluster.seen))
    cluster.objects["trainjobs"][NAME]["metadata"]["uid"] = "of-another"
    cluster.calm()
    assert launcher.end() == 0
    assert "deletionTimestamp" not in cluster.objects["trainjobs"][NAME]["metadata"]


def test_somebody_who_deletes_the_job_stops_it(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch()
    cluster.job()
    launcher.wait_for("created")
    cluster.delete("trainjobs", NAME, {"propagationPolicy": "Foreground"})
    assert launcher.end() == 1
    assert launcher.lines[-1] == f"embedmill: TrainJob {NAME}: somebody deleted it while it ran"
    assert made(cluster) == 1


# waiting


def test_what_a_job_waits_for_is_said_once(cluster: FakeKubernetes, launch: Launch) -> None:
    launcher = launch(queue="gpus")
    assert cluster.job()["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    for _ in range(2):
        cluster.condition(NAME, "Suspended", "True", "Suspended", "TrainJob is suspended")
    launcher.wait_for("waiting in the queue")
    cluster.condition(NAME, "Suspended", "False", "Resumed", "TrainJob is resumed")
    pods = cluster.start_nodes(NAME)
    for pod in (*pods, *pods):
        cluster.pend(pod, "Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    launcher.wait_for("waiting for a node")
    cluster.wait_in(pods[0], "ContainerCreating", "")
    for _ in range(2):
        cluster.wait_in(pods[0], "ImagePullBackOff", 'Back-off pulling image "train:1"')
    launcher.wait_for("ImagePullBackOff")
    assert launcher.lines[1:] == [
        f"TrainJob {NAME}: waiting in the queue gpus",
        "waiting for a node: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        f'pod {pods[0]} waits: ImagePullBackOff: Back-off pulling image "train:1"',
    ]


def test_a_priority_class_that_only_the_runtime_can_give_is_said(cluster: FakeKubernetes, launch: Launch) -> None:
    launch(priority_class="urgent").wait_for("priority class urgent: without a queue")
    assert "kueue.x-k8s.io/priority-class" not in cluster.job()["metadata"]["labels"]
