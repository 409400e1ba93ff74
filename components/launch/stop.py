"""A request to stop that is acted on between two calls of the API, never in the middle of one.

Requests are SIGTERM, SIGINT and the end of the process that started this one: Kubeflow Pipelines runs a command through
a launcher that passes no signal on. When a run is terminated, that launcher ends at once, the container ends with it,
and what can still be done is done in the milliseconds between.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from components.core.errors import Interrupted
from components.core.lock import PR_SET_PDEATHSIG

_SLICE_SECONDS = 0.1


class Stop:
    """Inside the `with`, a request is heard once; a second SIGINT acts as it would outside, for people in a hurry."""

    def __init__(self, told: Callable[[Callable[[], None]], None]) -> None:
        """`told` is called with `check` when a stop is requested: inside a signal handler, so it must not lock."""
        self.requested = False
        self._told = told
        self._parent = os.getppid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._request)
        _at_parents_death(signal.SIGHUP)
        if os.getppid() != self._parent:  # it ended before that took effect
            self._request(signal.SIGHUP, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _at_parents_death(0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Interrupted if a stop is requested."""
        if self.requested:
            raise Interrupted("told to stop")

    def wait(self, seconds: float) -> None:
        """Wait that long. Raises Interrupted as soon as a stop is requested."""
        deadline = time.monotonic() + seconds
        self.check()
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_SECONDS))
            self.check()

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP and os.getppid() == self._parent:
            return  # only the thread that started this process has ended
        self.requested = True
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        self._told(self.check)


def _at_parents_death(number: int) -> None:
    """Have Linux send this signal when the process that started this one ends; 0 for none."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
