"""The final state of a run in MLflow: that of the run that `register` made, or of one that is made for it."""

from __future__ import annotations

from collections.abc import Mapping

from components.core import tracking
from components.core.tracking import ORCHESTRATED, STEP, GitState
from components.finish.status import CANCELED, FAILED, SUCCEEDED, Status
from components.register.runs import IDENTITY, PIPELINE

STATE, ERROR, RECIPE = "state", "error", "recipe"
ENDED: Mapping[str, str] = {SUCCEEDED: tracking.FINISHED, FAILED: "FAILED", CANCELED: "KILLED"}


def record_state(run_id: str, name: str, status: Status, recipe: str, git_sha: str) -> str:
    """Write the state and return the page of the run in MLflow, or its id where there is no server.

    A run whose state nobody tells has ended well if it came as far as a registered model. Done again, it finds what
    it made. Raises InputError if MLflow cannot be reached.
    """
    client = tracking.connect()
    with tracking.tracking_errors():
        experiment = tracking.experiment_id(client)
        whose = {ORCHESTRATED: run_id, STEP: PIPELINE}
        found = tracking.find_runs(client, experiment, whose)
        run = found[-1] if found else client.create_run(experiment, run_name=name, tags=whose)
        tags = {STATE: status.state, ERROR: status.error, RECIPE: recipe}
        if git_sha:
            tags |= {key: value for key, value in GitState(git_sha, False, "").tags().items() if key != "git.dirty"}
        for key, value in tags.items():
            if value or key in run.data.tags:  # an earlier attempt may have had an error
                client.set_tag(run.info.run_id, key, value)
        unknown = SUCCEEDED if IDENTITY in run.data.tags else FAILED
        client.set_terminated(run.info.run_id, status=ENDED.get(status.state, ENDED[unknown]))
    uri = tracking.tracking_uri().rstrip("/")
    place = f"/#/experiments/{experiment}/runs/{run.info.run_id}"
    return f"{uri}{place}" if uri.startswith(("http://", "https://")) else str(run.info.run_id)
