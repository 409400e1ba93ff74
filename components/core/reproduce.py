"""Running the chain through DVC, as a process that never outlives the one that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from components.core import environment, lock
from components.core.errors import EmbedmillError

DVC = (sys.executable, "-m", "dvc")
# A step that fails below DVC leaves its exit code here, since DVC ends with its own.
FAILURE = Path(".embedmill/failed")
GRACE_SECONDS = 30.0


class ChainFailed(EmbedmillError):
    """A step failed and has said why; what is finished is kept. The exit code is the step's own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def reproduce(targets: Sequence[str] = (), command: Sequence[str] = (*DVC, "repro")) -> None:
    """Run whatever has changed, up to `targets`. Raises ChainFailed with the exit code of the step that failed.

    The kernel ends the chain if this process is killed, and an exception in here ends it first, so that whoever comes
    next never finds another chain at work.
    """
    environment.quiet()
    use_git(Path())
    FAILURE.unlink(missing_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    arguments = [*command, *targets]
    process = subprocess.Popen(arguments, env={**os.environ, "PATH": path}, preexec_fn=lock.die_with_parent)
    try:
        code = process.wait()
    except BaseException:
        _end(process)
        raise
    if code:
        exit_code = int(FAILURE.read_text()) if FAILURE.exists() else EmbedmillError.exit_code
        raise ChainFailed("the chain stopped; what is finished is kept, run it again to go on", exit_code)


def leave_exit_code(code: int) -> None:
    """Leave the exit code of a failed step for `reproduce`, which has DVC's exit code only."""
    if FAILURE.parent.is_dir():
        FAILURE.write_text(str(code))


def use_git(folder: Path) -> None:
    """Tell DVC whether there is a git repository around `folder`, since it refuses to run without one unless told."""
    path = folder / ".dvc" / "config.local"
    if not path.parent.is_dir():
        return
    has_git = any((parent / ".git").exists() for parent in (folder.resolve(), *folder.resolve().parents))
    told_otherwise = path.exists() and "no_scm = true" in path.read_text(encoding="utf-8").casefold()
    if has_git != told_otherwise:
        return
    setting = ["--unset", "core.no_scm"] if has_git else ["core.no_scm", "true"]
    subprocess.run([*DVC, "config", "--local", *setting], env={**os.environ, "DVC_NO_ANALYTICS": "1"}, check=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the chain to end, then make it end; a second Ctrl-C does not interrupt this."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
