"""The committed pipelines are what their modules make."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

NAMES = sorted(path.stem for path in (PROJECT / "pipelines").glob("*.yaml"))
# All of them in one process, which takes long to start.
SCRIPT = """
import importlib, json, sys
from pipelines.compiled import compiled

modules = {name: importlib.import_module(f"pipelines.{name}") for name in sys.argv[1:]}
json.dump({name: compiled(getattr(module, name)) for name, module in modules.items()}, sys.stdout)
"""


@pytest.fixture(scope="module")
def recompiled() -> dict[str, str]:
    """Every pipeline compiled anew, with another order of sets than the committed file was made with."""
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", SCRIPT, *NAMES]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    made: dict[str, str] = json.loads(done.stdout)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_compiling_again_gives_the_committed_bytes(recompiled: dict[str, str], name: str) -> None:
    committed = (PROJECT / "pipelines" / f"{name}.yaml").read_bytes()
    assert recompiled[name].encode() == committed, f"run `python -m pipelines.{name}` and commit {name}.yaml"


def test_a_pipelines_module_says_what_it_writes_and_takes_no_argument() -> None:
    path = PROJECT / "pipelines" / "flywheel.yaml"
    before = path.stat().st_mtime_ns
    for more, code, said in (
        (["--help"], 0, "Compile this pipeline into "),
        (["nope"], 2, "unexpected extra argument"),
    ):
        command = [sys.executable, "-m", "pipelines.flywheel", *more]
        done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stderr
    assert path.stat().st_mtime_ns == before
