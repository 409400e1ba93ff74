"""Where a step's CPU time goes, by module of the project: a sample every few milliseconds of CPU time.

It needs nothing of the code that it watches, so that a rebuilt stage is measured like the one before.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

COMPONENTS = str(Path(__file__).resolve().parents[1] / "components")
INTERVAL = 0.002


@contextmanager
def sampled(place: Callable[[FrameType], str | None]) -> Iterator[Counter[str]]:
    """CPU seconds of the body by `place(frame)`, asked of the running frame and its callers until one gives a name.

    A signal waits until a long call into C has ended; it then counts all the CPU time since the one before, and the
    frame is still that of the caller.
    """
    spent: Counter[str] = Counter()
    last = time.process_time()

    def tick(_: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.process_time()
        name = None
        while frame is not None and name is None:
            name = place(frame)
            frame = frame.f_back
        spent[name or "other"] += now - last
        last = now

    before = signal.signal(signal.SIGPROF, tick)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        yield spent
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        spent["other"] += time.process_time() - last


def module(frame: FrameType) -> str | None:
    """The module of the project that a frame belongs to, such as `filter.minhash`."""
    file = frame.f_code.co_filename
    if not file.startswith(COMPONENTS):
        return None
    return file[len(COMPONENTS) + 1 :].removesuffix(".py").replace("/", ".")
