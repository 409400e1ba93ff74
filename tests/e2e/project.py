"""A throw-away copy of the project, with the tiny recipe on top, that whole chains run in."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PARTS = ("components", "recipes", "dvc.yaml", "params.yaml", ".dvc/config", ".dvc/plots", ".dvcignore", ".gitignore")


class Project:
    """A copy of the working tree at `path`; commands run in it as a person would run them."""

    def __init__(
        self, path: Path, recipe: str | None = "tiny", git: bool = True, env: dict[str, str] | None = None
    ) -> None:
        self.path = path
        self.made: dict[str, str] = {}
        for part in PARTS:
            source, target = PROJECT / part, path / part
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        bin_folder = Path(sys.executable).parent
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "MLFLOW_TRACKING"))},
            "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(path),
            **(env or {}),
        }
        if recipe:
            self.run("embedmill", "recipe", f"recipes/{recipe}.yaml")
        if git:
            identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
            self.run("git", "init", "-q")
            self.run("git", "add", ".")
            self.run("git", *identity, "commit", "-q", "-m", "Start")

    def run(self, *command: str, expect: int = 0) -> str:
        """Run a command to its end; returns what it printed, both streams together."""
        result = subprocess.run(
            command,
            cwd=self.path,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert result.returncode == expect, f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout}"
        return result.stdout

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command and leave it running, its output thrown away."""
        return subprocess.Popen(
            command, cwd=self.path, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def digests(self, *patterns: str) -> dict[str, str]:
        """SHA-256 of every file that matches, by path."""
        files = sorted(path for pattern in patterns for path in self.path.glob(pattern) if path.is_file())
        assert files, patterns
        return {str(path.relative_to(self.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
