from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.errors import UsageError
from components.core.lock import hold

HOLDER = """
import sys
from components.core.lock import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
CHILD = (
    "import time; from components.core.lock import die_with_parent as d; d(); print('up', flush=True); time.sleep(60)"
)
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}])
child.wait()
"""


def test_a_second_writer_is_refused_by_name_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "step.lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UsageError, match=f"step x is running already \\(process {holder.pid}\\)"),
            hold(path, "step x"),
        ):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with hold(path, "step x"):
        assert path.read_text() == str(os.getpid())


def test_a_step_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        parent.kill()
        # the pipe closes when the last process that holds it, the child, has ended; it would sleep for a minute
        assert parent.stdout.read() == ""
