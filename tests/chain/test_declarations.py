"""dvc.yaml and params.yaml say what the declarations say: a step is declared once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import chain
from components.core.settings import read_params
from components.core.step import Step

PROJECT = Path(__file__).resolve().parents[2]
STAGES: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
# What a step's numbers hang on beside its own sections: the training side on seed and threads.
RUN_KEYS = ("run.seed", "run.threads")


def paths(entries: list[Any]) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def test_the_stages_are_the_steps_in_order() -> None:
    assert tuple(STAGES) == chain.ORDER


@pytest.mark.parametrize("step", chain.steps(), ids=lambda step: step.name)
def test_a_stage_repeats_its_declaration(step: Step) -> None:
    stage = STAGES[step.name]
    assert stage["cmd"] == f"embedmill {step.name}"
    declared_outputs = {port.default for port in step.outputs if not port.optional}
    assert set(paths(stage.get("outs", []) + stage.get("metrics", []))) == declared_outputs
    code = {dep for dep in stage["deps"] if dep.startswith("components/")}
    assert {"components/core", f"components/{step.name}"} <= code
    assert set(stage["deps"]) - code == {port.default for port in step.inputs if not port.optional}
    tracked = set(paths(stage.get("params", []))) - set(RUN_KEYS)
    assert {key.partition(".")[0] for key in tracked} == set(step.sections)


@pytest.mark.parametrize("step", chain.steps(), ids=lambda step: step.name)
def test_a_stage_depends_on_all_code_that_it_imports(step: Step) -> None:
    """What the run function's modules import, directly or not, is either a declared code folder or this step's own."""
    script = (
        "import sys, importlib, pkgutil\n"
        f"package = importlib.import_module('components.{step.name}')\n"
        "for module in pkgutil.iter_modules(package.__path__): "
        f"importlib.import_module('components.{step.name}.' + module.name)\n"
        "print(*sorted({n.split('.')[1] for n in sys.modules if n.startswith('components.')}))\n"
    )
    output = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True)
    rooms = set(output.stdout.split()) - {"core"}
    assert rooms <= {step.name, "training"}
    declared = {dep.removeprefix("components/") for dep in STAGES[step.name]["deps"] if dep.startswith("components/")}
    assert rooms <= declared


def test_every_parameter_stands_in_params_yaml_with_the_declared_default() -> None:
    params = read_params(PROJECT / "params.yaml")
    known = chain.sections()
    assert list(params) == [name for name in params if name in known]
    assert set(params) == set(known)
    for name, model in known.items():
        assert set(params[name]) == set(model.model_fields), name
        assert model.model_validate(params[name]) == model(), name


def test_every_value_of_params_yaml_has_a_comment() -> None:
    lines = (PROJECT / "params.yaml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if line.startswith("  ") and line[2] not in " #-" and "#" not in line:
            assert lines[number - 1].strip().startswith("#"), f"line {number + 1}: {line}"


@pytest.mark.parametrize("step", chain.ORDER)
def test_numerical_libraries_come_after_the_number_of_threads_is_fixed(step: str, tmp_path: Path) -> None:
    """They read it when they are imported; a sum by another number of threads has other bytes."""
    script = (
        "import sys; from components import cli; from components.core import environment\n"
        "def spy(threads): print(*{'numpy', 'torch', 'pyarrow', 'scipy'} & set(sys.modules)); sys.exit(7)\n"
        "environment.fix_threads = spy\n"
        f"cli._run(['{step}', '--section', 'run', '{{}}'], debug=True)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout.strip()) == (7, ""), ended.stderr


def test_help_lists_the_steps_in_order_without_importing_what_is_heavy() -> None:
    script = (
        "import os, sys; from components import cli\n"
        "code = cli._run(['--help'], debug=False)\n"
        "heavy = {'torch', 'mlflow', 'sentence_transformers', 'pandas', 'sklearn', 'faiss', 'dvc'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert code == 0\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    places = [shown.index(f"\n  {name} ") for name in chain.ORDER]
    assert places == sorted(places)
    for declared in chain.steps():
        assert f" {declared.summary}\n" in shown
