"""The launcher as a process, as a pod's command runs it: `python -m tests.launch.process train|ray JOB`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from components.core.errors import EmbedmillError
from components.launch.apiserver import Pace
from components.launch.job import Job
from components.launch.rayjob import run_ray_job
from components.launch.trainjob import run_train_job

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 30.0
PACE = Pace(first=0.02, longest=0.2, answer=2.0, watch=20, farewell=5.0, drain=5.0)
JOB = Job(
    "embedmill-finetune-3f2a91c04d7e", "finetune", ("torchrun", "-m", "components", "finetune"), "train:1", nodes=2
)


class Launcher:
    """A launcher at work: its lines as they come, and how it ends."""

    def __init__(self, kubeconfig: Path, kind: str = "train", below_another: bool = False, **changes: object) -> None:
        """With `below_another`, `process` is one that has started the launcher and waits for it."""
        command = [sys.executable, "-m", "tests.launch.process", kind, json.dumps({**vars(JOB), **changes})]
        if below_another:
            command = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:])", *command]
        self.lines: list[str] = []
        self._deaf = threading.Event()
        self.process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**os.environ, "KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str) -> None:
        """Wait until a line with this text is there."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not any(text in line for line in list(self.lines)):
            assert time.monotonic() < deadline and self.process.poll() is None, (text, self.lines)
            time.sleep(0.01)

    def end(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code

    def stop_listening(self) -> None:
        """Close the reading end of its output after the next line, as when the process above it ends."""
        self._deaf.set()

    def marked(self, rank: object) -> list[str]:
        """The lines of a rank, without its mark."""
        return [line.removeprefix(f"[{rank}] ") for line in self.lines if line.startswith(f"[{rank}] ")]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if self._deaf.is_set():
                self.process.stdout.close()
                return


def main() -> None:
    kind, fields = sys.argv[1], json.loads(sys.argv[2])
    job = Job(**{**fields, "command": tuple(fields["command"])})

    def log(line: str) -> None:
        print(line, flush=True)

    try:
        if kind == "ray":
            run_ray_job(job, log, 2, PACE)
        else:
            run_train_job(job, log, PACE)
    except EmbedmillError as error:
        print(f"embedmill: {error}", flush=True)
        os._exit(error.exit_code)  # as the command line ends: threads still wait for logs


if __name__ == "__main__":
    main()
