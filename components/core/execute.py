"""The executor: the same call runs in this process, on all cores, or (joblib's Ray backend) on a cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WATCH_SECONDS = 1.0

_parent: int | None = None  # in a worker process: the one that it works for


def worker_count(requested: int) -> int:
    """How many worker processes to use: `requested`, or every core this process may run on when it is 0."""
    return requested if requested > 0 else len(os.sched_getaffinity(0))


def map_ordered(fn: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `fn(item)` in the order of `items`; `fn` and the items must pickle when `workers` > 1.

    Results come as they are ready, so that a caller can show progress; an exception in a worker is raised here.
    """
    if workers <= 1:
        yield from map(fn, items)
        return
    from joblib import Parallel, delayed

    work = delayed(_InWorker(fn, os.getpid(), str(Path.cwd())))
    yield from Parallel(n_jobs=workers, backend="loky", return_as="generator")(work(item) for item in items)


def end_if_orphaned() -> None:
    """End this worker if the process that it works for has ended: it must not write beside the step that runs now."""
    if _parent is not None and os.getppid() != _parent:
        raise SystemExit(1)


class _InWorker(Generic[Item, Result]):
    """`fn` in a worker process that ends soon after its parent: loky's workers outlive a parent that was killed.

    Workers are used again by later calls, so that each call says which folder relative paths mean.
    """

    def __init__(self, fn: Callable[[Item], Result], parent: int, folder: str) -> None:
        self._fn, self._parent, self._folder = fn, parent, folder

    def __call__(self, item: Item) -> Result:
        _end_after(self._parent)
        os.chdir(self._folder)
        return self._fn(item)


@lru_cache(maxsize=1)
def _end_after(parent: int) -> None:
    global _parent
    _parent = parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
