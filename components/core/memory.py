"""Memory that this process may still take: that of the machine, or of its container where that is less."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
# Limit and use of a container, as cgroup version 2 and version 1 name them.
_CONTAINERS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.stat")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.stat"),
    ),
)


def free_bytes() -> int:
    """Bytes that can be taken before something must be given up; cached files count as free."""
    free = _fields(_MEMINFO, "MemAvailable") * 1024
    for limit, used, stat in _CONTAINERS:
        with suppress(OSError, ValueError):  # no such container, or a limit of "max"
            room = int(limit.read_text()) - int(used.read_text()) + _fields(stat, "inactive_file")
            free = min(free, max(0, room))
    return free


def _fields(path: Path, name: str) -> int:
    """The number beside ``name`` in a file of names and numbers."""
    for line in path.read_text().splitlines():
        key, _, value = line.replace(":", " ").partition(" ")
        if key == name:
            return int(value.split()[0])
    raise ValueError(f"{path} has no {name}")
