from __future__ import annotations

import os
import subprocess
import sys

from benchmarks import processes

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


def test_children_count_while_they_run_and_after() -> None:
    start = processes.cpu_seconds()
    command = [sys.executable, "-c", f"{BURN}print('ready', flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        assert child.pid in processes.family(os.getpid())
        running = processes.cpu_seconds() - start
        cpu, _, peak = processes.usage(child.pid)
        child.stdin.write("\n")
    ended = processes.cpu_seconds() - start
    assert 0.25 < cpu < 2
    assert peak > 2**20
    assert 0.25 < running <= ended + 0.02
    assert processes.usage(child.pid) == (0.0, 0.0, 0)
