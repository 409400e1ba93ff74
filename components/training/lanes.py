"""Parallel parts of a training step: work is cut into a fixed number of lanes, which threads pick up.

The cut depends on the work only, never on the number of threads, and partial sums are added in lane order: one thread
and sixteen give the same bytes. PyTorch's own threads stay at one, because theirs split sums by thread count and wait
for one another at every operation, which a busy machine makes slow.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

LANES = 4

_pool: ThreadPoolExecutor | None = None
_here = threading.local()


def use_threads(threads: int) -> None:
    """Let `in_lanes` use this many threads, for the rest of the process."""
    global _pool
    import torch

    torch.set_num_threads(1)
    _pool = ThreadPoolExecutor(threads, thread_name_prefix="lane") if threads > 1 else None


@contextmanager
def alone() -> Iterator[None]:
    """In this thread, run lanes one after the other: long work in the background must not hold up the training's."""
    _here.alone = True
    try:
        yield
    finally:
        _here.alone = False


def in_lanes(work: Callable[[int], Result]) -> list[Result]:
    """``[work(0), …, work(LANES - 1)]``, on the threads in use."""
    if _pool is None or getattr(_here, "alone", False):
        return [work(lane) for lane in range(LANES)]
    return list(_pool.map(work, range(LANES)))


def share(count: int, lane: int, part: slice | None = None) -> slice:
    """The lane's contiguous part of ``count`` items, or of those in ``part``; lanes differ by at most one."""
    first, last = (0, count) if part is None else (part.start, part.stop)
    return slice(first + (last - first) * lane // LANES, first + (last - first) * (lane + 1) // LANES)
