"""How a run ended, as Kubeflow Pipelines tells its exit handler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from components.core.errors import UsageError

SUCCEEDED, FAILED, CANCELED, UNKNOWN = "SUCCEEDED", "FAILED", "CANCELED", "UNKNOWN"
# The server's own words (those of ML Metadata until 2.16, of the API after that) and those of kfp's local runner. Of a
# pipeline with loops a server before 2.17 says RUNNING (kubeflow/pipelines#13321), which tells nothing.
STATES: Mapping[str, str] = {
    "SUCCEEDED": SUCCEEDED,
    "SUCCESS": SUCCEEDED,
    "COMPLETE": SUCCEEDED,
    "CACHED": SUCCEEDED,
    "SKIPPED": SUCCEEDED,
    "FAILED": FAILED,
    "FAILURE": FAILED,
    "ERROR": FAILED,
    "CANCELED": CANCELED,
    "CANCELLED": CANCELED,
    "CANCELING": CANCELED,
    "CANCELLING": CANCELED,
}
MESSAGE_CHARACTERS = 2000


@dataclass(frozen=True)
class Status:
    """The state of a run, one of four, and what went wrong as far as it is told."""

    state: str
    error: str = ""

    @classmethod
    def parse(cls, text: str) -> Status:
        """Read a PipelineTaskFinalStatus; without one the state is unknown. Raises UsageError if it is none."""
        try:
            value = json.loads(text) if text.strip() else None
        except ValueError as error:
            raise UsageError(f"--status: not valid JSON ({error})") from None
        if value is None:
            return cls(UNKNOWN)
        told = value.get("error") or {} if isinstance(value, dict) else None
        if not isinstance(told, dict):
            raise UsageError('--status: expected an object such as {"state": "SUCCEEDED", "error": {"message": ""}}')
        state = STATES.get(str(value.get("state", "")).upper(), UNKNOWN)
        message = " ".join(str(told.get("message") or "").split())
        return cls(state, "" if state == SUCCEEDED else message[:MESSAGE_CHARACTERS])
