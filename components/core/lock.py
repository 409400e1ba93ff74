"""One writer at a time, on one machine: kernel file locks, which a killed process cannot leave behind."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.core.errors import UsageError

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.1


@contextmanager
def hold(path: str | Path, what: str = "this step", wait_seconds: float = 0) -> Iterator[None]:
    """Hold the lock file `path` for the body of the `with`; the kernel lets go of it when the process ends, however.

    Waits up to `wait_seconds` for another holder to end, then raises UsageError that names its process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    with path.open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "unknown"
                    raise UsageError(f"{what} is running already (process {holder}); wait for it or stop it") from None
                time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, so that a killed `dvc` leaves no second writer behind."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent ended before the request took effect
        os.kill(os.getpid(), signal.SIGKILL)
