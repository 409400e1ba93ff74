"""The executor: the same call runs in this process, in processes of this machine (loky), or on a Ray cluster.

A worker that dies in the middle of an item (killed, or out of memory) takes no other item with it: this is said, and
the item is tried again. Since the work of a step writes whole files named by their shard, that changes no byte.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from components.core import cluster, processes
from components.core.errors import InputError
from components.core.pool import Pool, WorkerDied

Item = TypeVar("Item")
Result = TypeVar("Result")
Executor = Literal["loky", "ray"]

ATTEMPTS = 3
# Items begun or finished but not yet taken by the caller, for each worker: bounds memory, and lets the other workers go
# on while a slow item holds the order up.
LOOK_AHEAD = 4


@dataclass
class _State:
    executor: Executor = "loky"
    label: str = "embedmill"


_state = _State()


@contextmanager
def using(executor: Executor, label: str, places: Mapping[str, str]) -> Iterator[None]:
    """Run what `map_ordered` is given in the body of the `with` on `executor`; `label` names the step in messages.

    `places` are the step's inputs and outputs by option. Raises UsageError if the workers could not reach one.
    """
    before = (_state.executor, _state.label)
    _state.executor, _state.label = executor, label
    try:
        if executor == "ray":
            with cluster.connected():
                cluster.check_shared(places)
                yield
        else:
            yield
    finally:
        _state.executor, _state.label = before


def worker_count(requested: int) -> int:
    """How many workers to use: `requested`, or every core (of this process, or of the Ray cluster) when it is 0."""
    if requested > 0:
        return requested
    if _state.executor == "ray":
        return cluster.cores()
    return len(os.sched_getaffinity(0))


def map_ordered(fn: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield `fn(item)` in the order of `items`; one worker is this process, for more `fn` and items must pickle.

    Results come as they are ready, so that a caller can show progress, and few wait to be taken; an exception in a
    worker is raised here. An item whose worker dies is tried three times in all; then InputError names it, by its
    attribute `name` if it has one. If it has a method `again`, what that returns is tried in its place.
    """
    if workers <= 1:
        yield from map(fn, items)
    elif _state.executor == "ray":
        yield from _ordered(cluster.Tasks(fn, workers), items)
    else:
        yield from _ordered(processes.Processes(fn, workers), items)


def end_if_orphaned() -> None:
    """End this worker if the process that it works for has ended: it must not write beside the step that runs now."""
    processes.end_if_orphaned()


@dataclass(eq=False)
class _Call:
    """An item on its way: waiting, running or done."""

    item: Any
    number: int
    deaths: int = 0
    future: Future[Any] | None = None

    @property
    def name(self) -> str:
        return getattr(self.item, "name", None) or f"item {self.number}"


def _ordered(pool: Pool, items: Iterable[Any]) -> Iterator[Any]:
    source = iter(items)
    calls: deque[_Call] = deque()  # in order, the first one is the next to yield
    waiting: deque[_Call] = deque()
    running: dict[Future[Any], _Call] = {}
    taken = 0
    try:
        while True:
            while len(running) < pool.slots:
                if not waiting and len(calls) < LOOK_AHEAD * pool.slots:
                    for item in source:
                        calls.append(_Call(item, taken))
                        waiting.append(calls[-1])
                        taken += 1
                        break
                if not waiting:
                    break
                call = waiting.popleft()
                running[pool.submit(call.item)] = call
            if not calls:
                return
            done = calls[0].future
            if done is not None:
                calls.popleft()
                yield pool.result(done)
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                call = running.pop(future)
                try:
                    pool.settle(future)
                    call.future = future
                except WorkerDied as death:
                    _note_death(call, death)
                    call.item = call.item.again() if hasattr(call.item, "again") else call.item
                    waiting.appendleft(call)
    finally:
        pool.stop()


def _note_death(call: _Call, death: WorkerDied) -> None:
    """Say that a worker died and its item is tried again. Raises InputError when it has been tried often enough."""
    call.deaths += 1
    what = f"{_state.label}: {call.name}: its worker died ({death})"
    if call.deaths == ATTEMPTS:
        raise InputError(
            f"{what}, {ATTEMPTS} times in all; most likely it needs more memory than there is: use fewer run.workers "
            "or smaller shards. Finished shards are kept, the same command goes on from there"
        )
    print(f"{what}; trying again, attempt {call.deaths + 1} of {ATTEMPTS}", file=sys.stderr, flush=True)
