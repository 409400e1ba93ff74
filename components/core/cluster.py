"""Tasks on a Ray cluster: the one that RAY_ADDRESS names, or one of this machine's cores, started for the step.

Every machine of the cluster needs the same version of this package, and the environment variables with its keys to
storage: no secret is sent from here. A task has one core, and numerical libraries one thread, as Ray sets it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.core import environment, storage
from components.core.errors import InputError, UsageError
from components.core.pool import WorkerDied

CONNECT_SECONDS = 10.0


@contextmanager
def connected() -> Iterator[None]:
    """Be connected to the cluster in the body of the `with`.

    Raises UsageError if Ray is not installed, InputError if the cluster that RAY_ADDRESS names does not answer.
    """
    environment.quiet()
    try:
        import ray
    except ImportError:
        raise UsageError(
            "run.executor: ray is not installed; install the extra: pip install 'embedmill[cluster]'"
        ) from None
    if ray.is_initialized():  # by the caller, who also ends it
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    _check_answers(address or "")
    more: dict[str, Any] = {} if address else {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False}
    try:
        ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **more)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = f"RAY_ADDRESS={address}" if address else "a Ray cluster on this machine"
        raise InputError(f"{where}: cannot be used ({reason})") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise InputError if nothing listens at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise InputError(
                f"RAY_ADDRESS={address}: no Ray cluster answers there ({error.strerror or error})"
            ) from None


def cores() -> int:
    """The cores of all machines that are in the cluster now."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 0)))


def check_shared(places: Mapping[str, str]) -> None:
    """Raise UsageError for a local path (by option) if the cluster has machines that would not find it."""
    import ray

    machines = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if machines <= {ray.util.get_node_ip_address()}:
        return
    for option, uri in places.items():
        if storage.is_local(uri):
            raise UsageError(
                f"--{option} {uri}: a path of this machine, and the Ray cluster has {len(machines)} machines; "
                "with run.executor=ray there every input and output is an s3:// URI"
            )


class Tasks:
    """A pool (see core.pool) of Ray tasks, each with one core."""

    def __init__(self, fn: Callable[[Any], Any], slots: int) -> None:
        import ray

        self.slots = slots
        self._remote = ray.remote(num_cpus=1, max_retries=0)(_run)  # retried by execute, which says so
        self._fn = ray.put(ray.cloudpickle.dumps(fn))
        self._folder = str(Path.cwd())
        self._running: dict[Future[Any], Any] = {}

    def submit(self, item: Any) -> Future[Any]:
        # in a list, a reference is handed on as it is: each worker fetches the function once, not with every item
        reference = self._remote.remote([self._fn], self._folder, item)
        future: Future[Any] = reference.future()
        self._running[future] = reference
        return future

    def settle(self, future: Future[Any]) -> None:
        from ray import exceptions

        del self._running[future]
        error = future.exception()
        if isinstance(error, exceptions.OutOfMemoryError):
            raise WorkerDied("out of memory")
        if isinstance(error, exceptions.WorkerCrashedError):
            raise WorkerDied("killed")
        if isinstance(error, (exceptions.NodeDiedError, exceptions.LocalRayletDiedError, exceptions.ObjectLostError)):
            raise WorkerDied("its machine left the cluster")

    def result(self, future: Future[Any]) -> Any:
        from ray import exceptions

        error = future.exception()
        if isinstance(error, exceptions.RayTaskError):
            raise error.cause
        return future.result()

    def stop(self) -> None:
        import ray

        for reference in self._running.values():
            ray.cancel(reference, force=True)
        self._running.clear()


def _run(fn: list[Any], folder: str, item: Any) -> Any:
    with contextlib.suppress(FileNotFoundError):  # another machine, where no path is relative
        os.chdir(folder)
    return _function(fn[0].hex(), fn[0])(item)


_loaded: dict[str, Callable[[Any], Any]] = {}  # the function that this worker runs, by the name of its object


def _function(name: str, reference: Any) -> Callable[[Any], Any]:
    import ray

    if name not in _loaded:
        _loaded.clear()
        _loaded[name] = pickle.loads(ray.get(reference))
    return _loaded[name]
