"""Jobs that a run has left in the cluster: those of launchers that were killed and not started again."""

from __future__ import annotations

import time

from components.core.errors import EmbedmillError
from components.launch import rayjob, trainjob
from components.launch.apiserver import ApiError, ApiServer, Pace
from components.launch.job import RUN, Log


def clear(run: str, log: Log, pace: Pace = Pace()) -> None:  # noqa: B008
    """Delete the jobs of a run, for what ends it in any case. What cannot be deleted is named, and no error.

    It asks for not much longer than `pace.farewell` seconds.
    """
    deadline = time.monotonic() + pace.farewell

    def wait(seconds: float) -> None:
        if time.monotonic() + seconds > deadline:
            raise TimeoutError("no time is left")
        time.sleep(seconds)

    options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
    for kind in (trainjob.KIND, rayjob.KIND):
        try:
            api = ApiServer(log, pace)
            jobs = f"/apis/{kind.group}/{kind.version}/namespaces/{api.namespace}/{kind.plural}"
            for job in api.get(jobs, wait, labelSelector=f"{RUN}={run}")["items"]:
                name = job["metadata"]["name"]
                log(f"{kind.name} {name}: left by the run {run}; deleting it")
                api.delete(f"{jobs}/{name}", options, wait)
        except (EmbedmillError, TimeoutError) as error:
            if not (isinstance(error, ApiError) and (error.kind_unknown or error.status == 404)):
                log(f"there may be jobs left ({error}): kubectl delete {kind.plural} -l {RUN}={run}")
