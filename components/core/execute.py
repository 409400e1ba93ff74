"""The executor: the same call runs in this process, on all cores, or (joblib's Ray backend) on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


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

    yield from Parallel(n_jobs=workers, backend="loky", return_as="generator")(delayed(fn)(item) for item in items)
