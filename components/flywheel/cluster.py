"""Training on a version as a run of the pipeline on Kubeflow: one run, whichever pollers are killed when.

Kubeflow gives two runs the same name without a word, so that asking for the name before creating is not enough for
pollers at the same moment. Whoever sets out to create a run therefore takes a turn by a conditional put first, and asks
for the run only while the turn is young. A poller that finds a turn taken, but no run, waits until the run is there or
whoever took the turn can ask no more; by its own clock, for those of two machines differ. Then it takes the next turn
and asks for the name again.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.core import storage
from components.core.errors import EmbedmillError, InputError
from components.core.fingerprint import digest_bytes
from components.core.kubeflow import CANCELED, FAILED, SUCCEEDED, Parameter, Pipelines, PipelinesError, Run
from components.core.reproduce import ChainFailed
from components.flywheel.poller import Log
from components.flywheel.versions import Claim, Started, Store
from components.submit.options import EXPERIMENT

# One name for all pollers that start runs: any of them may go on with what another has claimed.
OWNER = "pipelines"
ATTEMPTS = 3
# How long after it has set out a poller may send the request that creates a run, and how long others wait for that: the
# rest is for the request itself, whose timeouts add up to 70 seconds.
START_SECONDS = 90.0
PATIENCE_SECONDS = 180.0
LOOK_SECONDS = 1.0
# Parameters of the pipeline that the flywheel fills in.
FEEDBACK, DATA_VERSION, RESULT = FILLED_IN = ("feedback", "data_version", "result_uri")
NOT_FOUND = 404


class TooLate(InputError):
    """Another poller may be about to create the run by now."""


@dataclass(frozen=True)
class PipelineRuns:
    """Runs of one pipeline, by whose parameters the version goes in and the registered model comes back."""

    pipelines: Pipelines
    package: Mapping[str, Any]
    parameters: Mapping[str, Parameter]
    experiment: str = EXPERIMENT
    attempts: int = ATTEMPTS
    service_account: str = ""

    def owner(self) -> str:
        """The name that all pollers of this kind claim with."""
        return OWNER

    def train(self, store: Store, claim: Claim, log: Log, resumed: bool) -> bool:
        """Start the claim's run, or look what has become of it.

        Raises ChainFailed if it has failed as often as it may, PipelinesError if Kubeflow does not answer.
        """
        batch, started = f"batch {claim.number}", store.last_started(claim.number)
        if started is None:
            self._start(store, claim, 1, log)
            return False
        run = self._look(started)
        if not run.ended:
            log(f"{batch}: run {run.name} is {run.state.lower()}")
            return False
        outcome = _read_outcome(store.outcome_uri(started.name))
        if run.state == SUCCEEDED or outcome:
            if run.state != SUCCEEDED:
                log(f"{batch}: run {run.name} registered its model, and then {_reason(run)}")
            version, gate = outcome.get("version"), outcome.get("gate")
            store.finish(claim, version, gate)
            log(f"{batch}: done, model version {version}, gate {gate}")
            return True
        if run.state == CANCELED:
            store.finish(claim, None, CANCELED.lower())
            log(f"{batch}: run {run.name} was cancelled; its feedback counts with the next batch")
            return True
        if started.attempt < self.attempts:
            log(f"{batch}: run {run.name} {_reason(run)}; trying again")
            self._start(store, claim, started.attempt + 1, log)
            return False
        runs = "1 run has" if started.attempt == 1 else f"{started.attempt} runs have"
        raise ChainFailed(
            f"{batch}: {runs} failed, the last one ({self.pipelines.url(run.id)}) {_reason(run)}; the batch stays "
            f"claimed: repair the cause, then --attempts {started.attempt + 1} starts another run",
            EmbedmillError.exit_code,
        )

    def _start(self, store: Store, claim: Claim, attempt: int, log: Log) -> None:
        batch, name = f"batch {claim.number}", run_name(store.root, claim, attempt)
        run = self.pipelines.find_run(name)
        if run is None:
            taken = _take_turn(store, claim.number, attempt, lambda words: log(f"{batch}: {words}"))
            if taken is None:
                return

            def check_time() -> None:
                if time.monotonic() > taken + START_SECONDS:
                    raise TooLate(f"{batch}: too late to create run {name}; a later poll finds it or creates it")

            given = {FEEDBACK: store.point(claim.version), DATA_VERSION: "", RESULT: store.outcome_uri(name)}
            values = {**self.parameters, **given}
            account = self.service_account
            run = self.pipelines.start_run(name, self.experiment, self.package, values, account, check_time)
        store.mark_started(claim.number, Started(attempt, name, run.id))
        log(f"{batch}: run {name} started, {self.pipelines.url(run.id)}")

    def _look(self, started: Started) -> Run:
        try:
            return self.pipelines.run(started.run_id)
        except PipelinesError as error:
            if error.status != NOT_FOUND:
                raise
            return Run(started.run_id, started.name, FAILED, error="somebody deleted it")


def run_name(root: str, claim: Claim, attempt: int) -> str:
    """The name of a claim's run: nobody else's, and the same for every poller of the feedback at `root`."""
    return f"flywheel-{claim.number:08d}-{digest_bytes(f'{root} {claim.version}'.encode())[:12]}-{attempt}"


def _take_turn(store: Store, number: int, attempt: int, log: Log) -> float | None:
    """Become the one poller that may create a run, from this moment on; None once another one has."""
    poller, spent = uuid.uuid4().hex, 0  # turns whose takers have had their time
    while True:
        moment = time.monotonic()
        if store.turns(number, attempt) == spent and store.take_turn(number, attempt, spent + 1, poller):
            return moment
        spent = store.turns(number, attempt)
        log("another poller has set out to start its run; waiting for that")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            last = store.last_started(number)
            if last is not None and last.attempt >= attempt:
                log(f"run {last.name} was started by another poller")
                return None
            time.sleep(LOOK_SECONDS)


def _read_outcome(uri: str) -> dict[str, Any]:
    """What a run has registered; empty if nothing."""
    value: dict[str, Any] = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else {}
    return value


def _reason(run: Run) -> str:
    """Why a run has not ended well, for the middle of a sentence."""
    failed = [task for task in run.tasks if task.state == FAILED and task.error]
    what = f"{failed[-1].name}: {failed[-1].error}" if failed else run.error
    return f"{run.state.lower()} ({what})" if what else run.state.lower()
