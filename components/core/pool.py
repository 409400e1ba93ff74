"""What the executor asks of workers, be they processes of this machine or tasks of a cluster."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Protocol


class WorkerDied(Exception):
    """The process that an item ran in ended before the item did; says how."""


class Pool(Protocol):
    """Workers that run one function, given when the pool is made."""

    slots: int
    """How many items may run at a time."""

    def submit(self, item: Any) -> Future[Any]:
        """Start the function on an item, by its pickled copy."""

    def settle(self, future: Future[Any]) -> None:
        """Take the worker of a finished item back. Raises WorkerDied if there is none any more."""

    def result(self, future: Future[Any]) -> Any:
        """What the function returned for a settled item; raises what it raised."""

    def stop(self) -> None:
        """End the items that still run."""
