"""The life of a job: created or adopted, followed, created again once after a failure, deleted at the end.

The launcher keeps nothing that it could lose: the job's name and the digest in its annotation say whose it is, so that
the next launcher finds the job of one that was killed, and goes on.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

from components.core.errors import EmbedmillError, GateRefused, InputError, Interrupted, UsageError
from components.core.fingerprint import digest_json
from components.launch.apiserver import ApiError, ApiServer, Object, Pace, Wait
from components.launch.following import Following
from components.launch.job import Job, Log
from components.launch.kind import Kind
from components.launch.stop import Stop

SPEC = "embedmill.dev/spec"  # annotation: digest of what was asked for
ATTEMPT = "embedmill.dev/attempt"  # annotation: 1, or 2 for a job that was created again
ATTEMPTS = 2
FAREWELL_ANSWER_SECONDS = 5.0
# wrong parameters, unusable input, refused by the gate: the same again would end the same
FINAL_CODES = (UsageError.exit_code, InputError.exit_code, GateRefused.exit_code)


def run(kind: Kind, job: Job, manifest: Object, log: Log, pace: Pace) -> None:
    """Run a job to its end. Raises JobFailed, Interrupted, and InputError or UsageError where the cluster refuses."""
    inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # the queue that a signal handler may put into
    with Stop(inbox.put) as stop:
        _Launcher(kind, job, manifest, log, pace, inbox, stop).run()


class _Launcher:
    def __init__(
        self,
        kind: Kind,
        job: Job,
        manifest: Object,
        log: Log,
        pace: Pace,
        inbox: queue.SimpleQueue[Callable[[], None]],
        stop: Stop,
    ) -> None:
        self.kind, self.job, self.log, self.pace, self.inbox = kind, job, log, pace, inbox
        self.api = ApiServer(log, pace)
        self.digest = digest_json(_asked(manifest, job.labels))[:16]
        self.manifest = manifest
        self.jobs = f"/apis/{kind.group}/{kind.version}/namespaces/{self.api.namespace}/{kind.plural}"
        self.path = f"{self.jobs}/{job.name}"
        self.title = f"{kind.name} {job.name}"
        self.wait: Wait = stop.wait
        self.uid = ""

    def run(self) -> None:
        try:
            self._run()
        except (Interrupted, BrokenPipeError):  # or nobody listens any more
            self._leave()
            raise Interrupted(f"{self.title}: stopped; run again, it goes on from its last checkpoint") from None
        except ApiError as error:
            if self.uid:  # it can be followed no longer, so it is not left to itself either
                self._leave()
            raise self._refusal(error) from None

    def _run(self) -> None:
        attempt = 1
        while True:
            metadata = self._create_or_adopt(attempt)["metadata"]
            attempt = int(metadata["annotations"].get(ATTEMPT, "1"))
            self.uid = metadata["uid"]
            following = Following(self.kind, self.api, self.title, metadata, self.log, self.inbox, self.wait)
            failure = following.to_the_end()
            again = failure is not None and attempt < ATTEMPTS and failure.exit_code not in FINAL_CODES
            if failure is not None and not again:
                following.show_last_lines()
            self._delete(metadata["uid"])
            if failure is None:
                self.log(f"{self.title}: done")
                return
            if not again:
                raise failure
            self.log(f"{failure}; creating it again, once")
            attempt, self.uid = attempt + 1, ""

    def _create_or_adopt(self, attempt: int) -> Object:
        """The job in the cluster: created, or found there with the same digest."""
        while True:
            found = self._find()
            if found is None:
                try:
                    made = self.api.post(self.jobs, self._body(attempt), self.wait, fieldValidation="Strict")
                except ApiError as error:
                    if error.status != 409:
                        raise
                    continue  # made by an attempt whose answer was lost, or by another launcher
                self.log(f"{self.title}: created in namespace {self.api.namespace}")
                return made
            metadata = found["metadata"]
            if not metadata.get("deletionTimestamp"):
                if (metadata.get("annotations") or {}).get(SPEC) == self.digest:
                    self.log(f"{self.title}: found in namespace {self.api.namespace}, followed from here")
                    return found
                self.log(f"{self.title}: another job has this name and is deleted first")
                self._delete(metadata["uid"])
            self._wait_until_gone(metadata["uid"])

    def _body(self, attempt: int) -> Object:
        metadata = self.manifest["metadata"]
        annotations = {**metadata.get("annotations", {}), SPEC: self.digest, ATTEMPT: str(attempt)}
        return {**self.manifest, "metadata": {**metadata, "annotations": annotations}}

    def _find(self) -> Object | None:
        try:
            return self.api.get(self.path, self.wait)
        except ApiError as error:
            if error.status == 404 and not error.kind_unknown:
                return None
            raise

    def _delete(self, uid: str) -> None:
        """Ask for the end of the job of this uid: it goes when its pods have gone."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }
        try:
            self.api.delete(self.path, options, self.wait)
        except ApiError as error:
            if error.status not in (404, 409):  # 409: another job of this name, which is not to be deleted
                raise

    def _wait_until_gone(self, uid: str) -> None:
        delay = self.pace.first
        while (found := self._find()) is not None and found["metadata"]["uid"] == uid:
            self.wait(delay)
            self.api.remind("deletion", f"{self.title}: waiting until its pods are gone")
            delay = min(2 * delay, self.pace.longest)

    def _leave(self) -> None:
        """Delete what this launcher has made or adopted, as far as the time between a signal and SIGKILL allows.

        The first thing it does is to ask for it, as it may be the last.
        """
        self.api.pace = replace(self.pace, answer=min(self.pace.answer, FAREWELL_ANSWER_SECONDS))
        deadline = time.monotonic() + self.pace.farewell

        def wait(seconds: float) -> None:
            if time.monotonic() + seconds > deadline:
                raise TimeoutError
            time.sleep(seconds)

        self.wait = wait
        with suppress(BrokenPipeError):
            try:
                uid = self.uid or self._uid_of_ours()
                if uid:
                    self._delete(uid)
                    self.log(f"{self.title}: told to stop, or unable to follow it; being deleted")
                    self._wait_until_gone(uid)
            except (TimeoutError, EmbedmillError) as error:
                reason = str(error) or "no time is left"
                remedy = f"kubectl delete {self.kind.plural} {self.job.name}"
                self.log(f"{self.title}: may still be there ({reason}): {remedy}")

    def _uid_of_ours(self) -> str:
        """The job whose creation was under way; empty if there is none."""
        found = self._find()
        if found is None or (found["metadata"].get("annotations") or {}).get(SPEC) != self.digest:
            return ""
        return str(found["metadata"]["uid"])

    def _refusal(self, error: ApiError) -> EmbedmillError:
        if error.kind_unknown:
            kind = f"{self.kind.plural} in {self.kind.group}/{self.kind.version}"
            return InputError(f"{self.kind.controller} is not installed in this cluster: its API knows no {kind}")
        if error.status == 403:
            return InputError(f"{self.title}: the cluster forbids it: {error}")
        if error.status in (400, 422):
            return UsageError(f"{self.title}: the cluster refuses it: {error}")
        return InputError(f"{self.title}: the cluster refuses it with {error.status}: {error}")


def _asked(value: Any, labels: Collection[str]) -> Any:
    """A manifest without the labels that say for whom it is: two runs that ask for the same thing follow one job."""
    if isinstance(value, dict):
        shown = {name: each for name, each in value.get("labels", {}).items() if name not in labels}
        return {key: shown if key == "labels" else _asked(each, labels) for key, each in value.items()}
    return [_asked(each, labels) for each in value] if isinstance(value, list) else value
