"""SIGINT and SIGTERM as an exception, so that whatever is under way ends before the poller does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived; raised wherever the main thread is, as KeyboardInterrupt is."""


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
