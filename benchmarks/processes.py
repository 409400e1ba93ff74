"""CPU time and memory of a process with everything that it has started, read from /proc and the kernel's accounts."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """CPU seconds of a process, of those of its children that have ended, and its peak resident bytes."""

    cpu: float
    children: float
    peak: int


def cpu_seconds() -> float:
    """CPU seconds of this process, all threads, of children that have ended, and of those that still run."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    ended = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    running = (usage(pid) for pid in family(os.getpid()) if pid != os.getpid())
    return ended + sum(each.cpu + each.children for each in running)


def family(pid: int) -> Iterator[int]:
    """The process and its descendants."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))


def usage(pid: int) -> Usage:
    """What a process has used so far; zeros if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return Usage(0.0, 0.0, 0)
    own, system, children, children_system = (int(field) / _TICKS for field in fields[11:15])
    return Usage(own + system, children + children_system, peak * 1024)
