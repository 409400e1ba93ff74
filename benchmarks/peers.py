"""Peers in environments of their own: how they are made, and a peer as something that can be measured."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Result, Table

HERE = Path(__file__).resolve().parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Environment:
    """An interpreter with peers: what is installed, what without what its metadata asks for, and who measures there."""

    name: str
    requirements: str
    without_dependencies: str
    packages: tuple[str, ...]
    worker: str

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return HERE.parent / self.name / "bin" / "python"

    def make(self) -> None:
        """Make it, or bring it up to what its requirements say."""
        if not self.python.is_file():
            venv.create(HERE.parent / self.name, with_pip=True)
        install = [str(self.python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "-r", str(HERE / self.requirements)], check=True, stdout=sys.stderr)
        subprocess.run([*install, "--no-deps", self.without_dependencies], check=True, stdout=sys.stderr)


DATA = Environment(
    ".venv-peers",
    "peers.txt",
    # asks for pyspark, sphinx extensions and an old urllib3, which its MinHash never imports
    "text-dedup==0.4.0",
    ("datasketch", "datatrove", "gaoya", "rensa", "text-dedup", "trafilatura", "numpy"),
    "worker.py",
)
TRAINING = Environment(
    ".venv-peers-training",
    "peers-training.txt",
    # asks for packages of its evaluation and of other kinds of model
    "FlagEmbedding==1.4.2",
    ("FlagEmbedding", "torch", "transformers"),
    "trainer.py",
)


class Peer:
    """A process that measures one task on one file whenever it is asked to."""

    def __init__(self, task: str, texts: Path, environment: Environment = DATA, **options: Any) -> None:
        if not environment.python.is_file():
            raise SystemExit(f"{environment.name} is missing: run `python benchmarks/data.py peers` first")
        self.task = task
        quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        # -P: the folder of the script is no place to import from; its module names are not the peers'
        command = [str(environment.python), "-P", str(HERE / environment.worker), task, str(texts), json.dumps(options)]
        variables = {**os.environ, **ONE_THREAD, **quiet, "PYTHONPATH": "", "PYTHONHASHSEED": "0"}
        self._log = texts.with_name(f"{task}.log").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=variables
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


def versions(*names: str, environment: Environment = DATA) -> dict[str, str]:
    """Versions of packages in the peers' environment."""
    code = (
        "import importlib.metadata as m, json, platform, sys; "
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    )
    command = [str(environment.python), "-c", code, *names]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def run() -> Result:
    """Make the environments, or bring them up to date."""
    found: dict[str, str] = {}
    for environment in (DATA, TRAINING):
        environment.make()
        found = {**versions(*environment.packages, environment=environment), **found}
    table = Table("Peers", ("package", "version"), list(found.items()))
    return Result("peers", [table], found, found)
