"""SIGTERM and SIGINT as a request that is acted on between two calls of the API, never in the middle of one."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from components.core.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SLICE_SECONDS = 0.1


class Stop:
    """Inside the `with`, the first signal is a request to stop; a second one acts as it would outside."""

    def __init__(self, told: Callable[[Callable[[], None]], None]) -> None:
        """`told` is called with `check` when a stop is requested: inside a signal handler, so it must not lock."""
        self.requested = False
        self._told = told
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._request) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raise Interrupted if a stop is requested."""
        if self.requested:
            raise Interrupted("stopped by a signal")

    def wait(self, seconds: float) -> None:
        """Wait that long. Raises Interrupted as soon as a stop is requested."""
        deadline = time.monotonic() + seconds
        self.check()
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_SECONDS))
            self.check()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        self._told(self.check)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
