"""One job in the cluster, followed from where it is found to its end: its state, its pods, their lines.

Watches and logs are read in threads; what they find is handled in the main thread, one after another.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from components.core.errors import EmbedmillError, GateRefused, InputError, Interrupted, UsageError
from components.launch import podlog
from components.launch.apiserver import ApiError, ApiServer, Object, Passing, Wait
from components.launch.job import JobFailed, Log
from components.launch.kind import Kind, State
from components.launch.podlog import Container

TAIL_LINES = 50
STEP_CODES = tuple(error.exit_code for error in (UsageError, InputError, GateRefused, Interrupted))
# of a node that lost another (1), was told to stop and did (5), or had not yet learnt how to (143)
LOST_PEER_CODES = (1, Interrupted.exit_code, 143)
KILLED_CODE = 137


@dataclass
class Pod:
    """What is known of a pod, which the cluster may have deleted since."""

    name: str
    rank: str | None
    made: str
    container: Container
    words: str = ""
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    log: Literal["unread", "reading", "read"] = "unread"

    @property
    def failed(self) -> bool:
        return bool(self.container.ended.get("exitCode") or self.words)

    @property
    def suspicion(self) -> tuple[bool, str, int, str]:
        """Smallest for the pod that failed first and by itself; the others lost it, or were killed after it."""
        ended = self.container.ended
        code = ended.get("exitCode")
        victim = code in LOST_PEER_CODES or (code == KILLED_CODE and ended.get("reason") != "OOMKilled")
        rank = self.rank or ""
        return victim, ended.get("finishedAt") or "", len(rank), rank

    @property
    def end(self) -> str:
        """How it ended, in words."""
        ended = self.container.ended
        code, reason = ended.get("exitCode"), ended.get("reason", "Error")
        told = f" ({reason})" if reason not in ("Error", "Completed") else ""
        return f"ended with exit code {code}{told}" if code is not None else f"was lost ({self.words})"


class Ended(Exception):
    """Raised in a thread that waits, once the job is followed no longer."""


class Following:
    """Follows one job object (by its uid) and the pods that belong to it."""

    def __init__(
        self,
        kind: Kind,
        api: ApiServer,
        title: str,
        metadata: Object,
        log: Log,
        inbox: queue.SimpleQueue[Callable[[], None]],
        wait: Wait,
    ) -> None:
        self.kind, self.api, self.title, self.log, self.inbox, self.wait = kind, api, title, log, inbox, wait
        self.name, self.uid = metadata["name"], metadata["uid"]
        namespace = f"namespaces/{api.namespace}"
        self.jobs = f"/apis/{kind.group}/{kind.version}/{namespace}/{kind.plural}", f"metadata.name={self.name}"
        self.pods_path, self.selector = f"/api/v1/{namespace}/pods", kind.selector(self.name)
        self.pods: dict[str, Pod] = {}
        self.job: Object = {}
        self.state = State("waiting")
        self._over = threading.Event()
        self._said: set[str] = set()

    def to_the_end(self) -> JobFailed | None:
        """Pass on lines until the job has ended and its pods' last lines are there; return how it failed, if it did.

        Raises JobFailed if somebody deleted it, Interrupted when a stop is requested.
        """
        path, name = self.jobs
        self._thread(self._watch, path, self._see_job, fieldSelector=name)
        self._thread(self._watch, self.pods_path, self._see_pod, labelSelector=self.selector)
        try:
            while self.state.phase in ("waiting", "going"):
                self.inbox.get()()
            for pod in self.api.get(self.pods_path, self.wait, labelSelector=self.selector)["items"]:
                self._see_pod("MODIFIED", pod)
            while reading := [pod for pod in self.pods.values() if pod.log == "reading"]:
                try:
                    self.inbox.get(timeout=self.api.pace.drain)()
                except queue.Empty:
                    names = ", ".join(pod.name for pod in reading)
                    self.log(f"{self.title}: the last lines of {names} cannot be read")
                    break
        finally:
            self._over.set()
        return None if self.state.phase == "succeeded" else self._failure()

    def show_last_lines(self) -> None:
        """Log the last lines of the pod at fault once more, since those of others have come between them."""
        pod = self._at_fault()
        if pod is not None and pod.last_lines:
            self.log(f"{self.title}: the last {len(pod.last_lines)} lines of {_who(pod)}:")
            for line in pod.last_lines:
                self.log(f"[{pod.rank}] {line}")

    def _failure(self) -> JobFailed:
        code, pod = self.kind.exit_code(self.job), self._at_fault()
        what = f"failed ({self.state.words})" if self.state.words else "failed"
        if pod is not None and pod.failed:
            code = pod.container.ended.get("exitCode") if code is None else code
            what += f": {_who(pod)} {pod.end}"
        elif code is not None:
            what += f": its command ended with exit code {code}"
        return JobFailed(f"{self.title}: {what}", code if code in STEP_CODES else EmbedmillError.exit_code)

    def _at_fault(self) -> Pod | None:
        """Of each rank's newest pod, the one that failed first and by itself; if none failed, any that has lines."""
        newest: dict[str, Pod] = {}
        for pod in sorted(self.pods.values(), key=lambda each: each.made):
            if pod.rank is not None:
                newest[pod.rank] = pod
        failed = [pod for pod in newest.values() if pod.failed]
        return min(failed or newest.values(), key=lambda pod: pod.suspicion, default=None)

    # in the main thread

    def _in_turn(self, see: Callable[..., None], *what: Any) -> None:
        if not self._over.is_set():
            see(*what)

    def _see_job(self, event: str, job: Object) -> None:
        if job["metadata"]["uid"] != self.uid:  # of an earlier or a later job of this name
            return
        going = ("waiting", "going")
        if self.state.phase not in going:
            return
        # one that had ended may be gone: another run that followed it was done with it first
        if event == "DELETED" and self.kind.state(job).phase in going:
            raise JobFailed(f"{self.title}: somebody deleted it while it ran")
        before, self.job, self.state = self.state, job, self.kind.state(job)
        if self.state.phase == "waiting" and self.state != before:
            self.log(f"{self.title}: {self.state.words}")

    def _see_pod(self, event: str, pod: Object) -> None:
        metadata, status = pod["metadata"], pod.get("status", {})
        container = Container(pod, self.kind.container)
        rank = self.kind.rank(pod)
        known = self.pods.setdefault(
            metadata["uid"], Pod(metadata["name"], rank, metadata["creationTimestamp"], container)
        )
        known.container = container
        if status.get("phase") == "Failed":
            known.words = _joined(status.get("reason"), status.get("message")) or "Failed"
        self._say_once(_why_not_running(pod, container))
        if rank is None:
            return
        if known.failed:
            self._say_once(f"{self.title}: {_who(known)} {known.end}")
        if container.started and known.log == "unread" and event != "DELETED":
            known.log = "reading"
            self._thread(self._read_log, known)

    def _see_line(self, pod: Pod, line: str) -> None:
        pod.last_lines.append(line)
        self.log(f"[{pod.rank}] {line}")

    def _see_end_of_log(self, pod: Pod) -> None:
        pod.log = "read"

    def _say_once(self, line: str) -> None:
        if line and line not in self._said:
            self._said.add(line)
            self.log(line)

    # in threads

    def _thread(self, target: Callable[..., None], *arguments: Any, **options: Any) -> None:
        threading.Thread(target=self._guarded, args=(partial(target, *arguments, **options),), daemon=True).start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Ended:
            return
        except Exception as error:
            self._hand_on(_raise, error)

    def _hand_on(self, see: Callable[..., None], *what: Any) -> None:
        """Let the main thread see something, unless it follows this job no longer when its turn comes."""
        if self._over.is_set():
            raise Ended
        self.inbox.put(partial(self._in_turn, see, *what))

    def _pause(self, seconds: float) -> None:
        if self._over.wait(seconds):
            raise Ended

    def _watch(self, path: str, see: Callable[[str, Object], None], **query: str) -> None:
        """Hand on what is there and then every change, beginning anew whenever the server has forgotten too much."""
        while True:
            listing = self.api.get(path, self._pause, **query)
            for item in listing["items"]:
                self._hand_on(see, "ADDED", item)
            if "fieldSelector" in query and self.uid not in [item["metadata"]["uid"] for item in listing["items"]]:
                self._hand_on(see, "DELETED", {"metadata": {"uid": self.uid}})
            self._watch_from(path, listing["metadata"]["resourceVersion"], see, query)
            self._pause(self.api.pace.first)

    def _watch_from(self, path: str, version: str, see: Callable[[str, Object], None], query: dict[str, str]) -> None:
        """Hand on the changes after `version`, until it is too old to go on from."""
        delay = self.api.pace.first
        while True:
            try:
                for event, item in self.api.watch(path, version, **query):
                    version, delay = item["metadata"]["resourceVersion"], self.api.pace.first
                    self._hand_on(see, event, item)
            except ApiError as error:
                if error.status == 410:
                    return
                raise
            except Passing as trouble:
                self.api.remind("API", f"the Kubernetes API does not answer ({trouble}); trying again")
                delay = min(2 * delay, self.api.pace.longest)
            self._pause(delay)

    def _read_log(self, pod: Pod) -> None:
        try:
            for line in podlog.follow(self.api, f"{self.pods_path}/{pod.name}", self.kind.container, self._pause):
                self._hand_on(self._see_line, pod, line)
        finally:
            self._hand_on(self._see_end_of_log, pod)


def _who(pod: Pod) -> str:
    return f"rank {pod.rank} (pod {pod.name})" if (pod.rank or "").isdigit() else f"the {pod.rank} (pod {pod.name})"


def _why_not_running(pod: Object, container: Container) -> str:
    """Why a pod waits for a node or for its container, in a line; empty if it does not."""
    for condition in pod.get("status", {}).get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return _joined("waiting for a node", condition.get("reason"), condition.get("message"))
    waiting = container.waiting
    if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
        return _joined(f"pod {pod['metadata']['name']} waits", waiting.get("reason"), waiting.get("message"))
    return ""


def _joined(*parts: str | None) -> str:
    return ": ".join(part for part in parts if part)


def _raise(error: Exception) -> None:
    raise error
