"""Running the chain for the flywheel: as a process that never outlives the poller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from components.core import environment, lock
from components.core.errors import EmbedmillError

GRACE_SECONDS = 30.0
DVC = (sys.executable, "-m", "dvc", "repro")


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived; raised wherever the main thread is, as KeyboardInterrupt is."""


class ChainFailed(EmbedmillError):
    """The chain ended with an error; what it has finished is kept."""


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise Stopped in the body at SIGINT or SIGTERM."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = [(number, signal.signal(number, stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def run_chain(command: Sequence[str] = DVC) -> None:
    """Run the chain to its end. Raises ChainFailed with its exit code; an exception in here ends the chain first.

    The kernel ends the chain if this process is killed, so that the next poller never finds another one at work.
    """
    environment.quiet()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    process = subprocess.Popen(command, env={**os.environ, "PATH": path}, preexec_fn=lock.die_with_parent)
    try:
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    if code:
        raise ChainFailed(f"{' '.join(command[-2:])} ended with exit code {code}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the chain to end, then make it end; a second Ctrl-C does not interrupt this."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
