"""A kind of job in the cluster's API: where its objects are, and how they and their pods are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from components.launch.apiserver import Object
from components.launch.job import QUEUE


@dataclass(frozen=True)
class State:
    """Where a job stands, and in which words its controller says so."""

    phase: Literal["waiting", "going", "succeeded", "failed"]
    words: str = ""


@dataclass(frozen=True)
class Kind:
    """One kind: TrainJob, RayJob."""

    name: str
    group: str
    version: str
    plural: str
    controller: str
    """What is to be installed where the API does not know the kind."""
    container: str
    """The container of a pod that shows the command's lines."""
    selector: Callable[[str], str]
    """The label selector of a job's pods, by the job's name."""
    state: Callable[[Object], State]
    """Where a job stands, by its object."""
    rank: Callable[[Object], str | None]
    """What the lines of a pod are marked with; None: they are not the command's."""
    exit_code: Callable[[Object], int | None]
    """The command's exit code, where the job's own object tells it."""


def waiting(job: Object) -> str:
    """Why a suspended job waits."""
    queue = job["metadata"].get("labels", {}).get(QUEUE)
    return f"waiting in the queue {queue}" if queue else "suspended"
