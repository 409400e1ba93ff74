"""Peers in an environment of their own: how it is made, and a peer as something that can be measured."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Table

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE.parent / ".venv-peers"
PYTHON = ENVIRONMENT / "bin" / "python"
REQUIREMENTS = HERE / "peers.txt"
# Its metadata asks for pyspark, sphinx extensions and an old urllib3, which its MinHash never imports.
WITHOUT_DEPENDENCIES = ("text-dedup==0.4.0",)
NAMES = ("datasketch", "datatrove", "gaoya", "rensa", "text-dedup", "trafilatura", "numpy")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


class Peer:
    """A process that measures one task on one set of texts whenever it is asked to."""

    def __init__(self, task: str, texts: Path, **options: Any) -> None:
        if not PYTHON.is_file():
            raise SystemExit(f"{ENVIRONMENT} is missing: run `python benchmarks/data.py peers` first")
        self.task = task
        quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        # -P: the folder of the script is no place to import from; its module names are not the peers'
        command = [str(PYTHON), "-P", str(HERE / "worker.py"), task, str(texts), json.dumps(options)]
        environment = {**os.environ, **ONE_THREAD, **quiet, "PYTHONPATH": "", "PYTHONHASHSEED": "0"}
        self._log = texts.with_name(f"{task}.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )
        self.value: Any = None

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def measure(self) -> float:
        """CPU seconds of one more run; `value` is what came out of it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # then it does not answer either
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise SystemExit(f"{self.task} failed:\n{self._log.read()[-3000:]}")
        answer = json.loads(line)
        self.value = answer["value"]
        return float(answer["cpu"])


def write_texts(path: Path, texts: Sequence[str], column: str = "text", ids: Sequence[str] | None = None) -> Path:
    """The file that a peer reads: ids are the numbers of the texts unless given."""
    names = ids if ids is not None else [str(number) for number in range(len(texts))]
    lines = (json.dumps({"id": name, column: text}) + "\n" for name, text in zip(names, texts, strict=True))
    path.write_text("".join(lines), encoding="utf-8")
    return path


def versions(*names: str) -> dict[str, str]:
    """Versions of the peers' interpreter and packages."""
    code = (
        "import importlib.metadata as m, json, platform, sys; "
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    )
    answer = subprocess.run([str(PYTHON), "-c", code, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def run() -> Result:
    """Make the environment, or bring it up to what peers.txt says."""
    if not PYTHON.is_file():
        venv.create(ENVIRONMENT, with_pip=True)
    install = [str(PYTHON), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True, stdout=sys.stderr)
    subprocess.run([*install, "--no-deps", *WITHOUT_DEPENDENCIES], check=True, stdout=sys.stderr)
    found = versions(*NAMES)
    table = Table("Peers", ("package", "version"), list(found.items()))
    return Result("peers", [table], found, found)
