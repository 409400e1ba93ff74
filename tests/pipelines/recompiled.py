"""Pipelines compiled anew, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import PROJECT


def recompiled(name: str) -> bytes:
    """What compiling `pipelines/NAME.py` gives, with another order of sets than the committed file was made with."""
    script = (
        f"from pipelines.compiled import compiled; from pipelines.{name} import {name}; print(compiled({name}), end='')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(PROJECT)}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, check=True).stdout
