"""Free memory is that of the machine, or of the container where it holds less."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core import memory


def test_the_tighter_of_machine_and_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, limit, used, stat = (tmp_path / name for name in ("meminfo", "max", "current", "stat"))
    meminfo.write_text("MemTotal:  100 kB\nMemAvailable:     60 kB\n")
    used.write_text("20000\n")
    stat.write_text("file 9000\ninactive_file 5000\n")
    monkeypatch.setattr(memory, "_MEMINFO", meminfo)
    monkeypatch.setattr(memory, "_CONTAINERS", ((limit, used, stat),))
    assert memory.free_bytes() == 60 * 1024
    for text, free in (("max\n", 60 * 1024), ("30000\n", 15_000), ("90000000\n", 60 * 1024), ("10000\n", 0)):
        limit.write_text(text)
        assert memory.free_bytes() == free
