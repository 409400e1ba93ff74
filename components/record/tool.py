"""Git and DVC as processes, whose failure is one line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.core import lock
from components.core.errors import InputError

# Messages in English, and no question to a person who is not there.
PLAIN = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}


def run(name: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> str:
    """What a command printed. Raises InputError with the last line of its complaint; `name` says what was tried."""
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **PLAIN, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        preexec_fn=lock.die_with_parent,
    )
    if result.returncode:
        lines = [line.strip() for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(("fatal:", "ERROR:", "error:", "! "))] or lines[-1:]
        raise InputError(f"{name}: {told[0] if told else f'ended with {result.returncode}'}")
    return result.stdout.strip()
