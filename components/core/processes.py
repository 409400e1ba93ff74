"""Worker processes of this machine: loky's, one executor for each, so that one that dies takes only its own item along.

They are kept for the next call, since starting one takes as long as many an item. The function is sent once a worker,
not with each item: it may carry a whole manifest.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

from components.core.pool import WorkerDied

WATCH_SECONDS = 1.0

_parent: int | None = None  # in a worker: the process that it works for
_spare: list[Any] = []  # executors whose worker has nothing to do
_numbers = count()


class Processes:
    """A pool (see core.pool) of worker processes that run one function."""

    def __init__(self, fn: Callable[[Any], Any], workers: int) -> None:
        from joblib.externals.loky.backend.reduction import dumps

        self.slots = workers
        self._busy: dict[Future[Any], Any] = {}
        # without a name: nothing is left of it when this process is killed
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._file.write(dumps(fn))
        self._file.flush()
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        self._call = _Call(path, next(_numbers), os.getpid(), str(Path.cwd()))

    def submit(self, item: Any) -> Future[Any]:
        executor = _spare.pop() if _spare else _new_executor()
        # A worker inherits the mask: Ctrl-C is for this process, and one that still imports would print a traceback
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            future: Future[Any] = executor.submit(self._call, item)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self._busy[future] = executor
        return future

    def settle(self, future: Future[Any]) -> None:
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        executor = self._busy.pop(future)
        error = future.exception()
        if isinstance(error, TerminatedWorkerError):
            executor.shutdown()
            cause = re.search(r"SIG[A-Z0-9]+|EXIT\(\d+\)", str(error))
            raise WorkerDied(cause.group() if cause else "cause unknown")
        _spare.append(executor)

    def result(self, future: Future[Any]) -> Any:
        return future.result()

    def stop(self) -> None:
        for executor in self._busy.values():
            executor.shutdown(kill_workers=True)
        self._busy.clear()
        self._file.close()


def close_idle() -> None:
    """End the workers that wait for the next call; it starts new ones, with the environment as it is then."""
    while _spare:
        _spare.pop().shutdown(kill_workers=True)


def _new_executor() -> Any:
    from multiprocessing import resource_tracker

    from joblib.externals.loky import ProcessPoolExecutor

    resource_tracker.ensure_running()  # its start resets the mask of signals
    # a worker that has grown by 100 MB is replaced between two items, which loky does well and then warns of
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor")
    _close_at_exit()
    return ProcessPoolExecutor(max_workers=1)


@lru_cache(maxsize=1)
def _close_at_exit() -> None:
    atexit.register(close_idle)  # before loky's modules are unloaded, which complain otherwise


class _Call:
    """The pool's function in a worker.

    Workers serve many calls, so that each brings the folder that relative paths mean.
    """

    def __init__(self, path: str, number: int, parent: int, folder: str) -> None:
        self._path, self._number, self._parent, self._folder = path, number, parent, folder

    def __call__(self, item: Any) -> Any:
        _end_after(self._parent)
        os.chdir(self._folder)
        return _function(self._path, self._number)(item)


@lru_cache(maxsize=1)
def _function(path: str, number: int) -> Callable[[Any], Any]:
    """The function that the parent has put into its file `path`; `number` tells it from an earlier one."""
    import pickle

    fn: Callable[[Any], Any] = pickle.loads(Path(path).read_bytes())
    return fn


def end_if_orphaned() -> None:
    """End this worker if the process that it works for has ended."""
    if _parent is not None and os.getppid() != _parent:
        raise SystemExit(1)


@lru_cache(maxsize=1)
def _end_after(parent: int) -> None:
    """End this worker soon after its parent: loky's workers outlive one that was killed."""
    global _parent
    _parent = parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
