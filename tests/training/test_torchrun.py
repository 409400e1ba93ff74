"""Several processes, started by torchrun on this machine: together they do what one does alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from components.training.distributed import World
from tests.training import forks, together

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# fp32, relative: another order of summation, over 8 steps
TOLERANCE = 1e-5
Results = dict[str, torch.Tensor]


def torchrun(processes: int, *arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return together.everything(World(), tmp_path_factory.mktemp("alone"), [])


def distance(found: Results, expected: Results, found_name: str, expected_name: str) -> float:
    """Norm of the difference of all tensors of a kind, relative.

    The bias of attention's keys moves no output, so its gradient is rounding alone, and AdamW makes steps of that.
    """
    names = [name for name in expected if name.startswith(expected_name) and not name.endswith("key.bias")]
    assert names
    pairs = [(found[found_name + name[len(expected_name) :]].double(), expected[name].double()) for name in names]
    difference = sum(float((left - right).square().sum()) for left, right in pairs)
    return (difference / sum(float(right.square().sum()) for _, right in pairs)) ** 0.5


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equality to which no number is one too: fp16's first gradient is none."""
    return left.numpy().tobytes() == right.numpy().tobytes()


@pytest.mark.parametrize(("processes", "stages"), [(2, [1, 2, 3]), (4, [])])
def test_processes_together_learn_what_one_learns_alone(
    processes: int, stages: list[int], alone: Results, tmp_path: Path
) -> None:
    """Static and transformer models, every task in every step, GradCache, clipping; ZeRO beside plain PyTorch."""
    if stages:
        ended = torchrun(processes, HERE / "together.py", tmp_path, *map(str, stages))
        assert ended.returncode == 0, ended.stderr[-3000:]
        assert not ended.stdout, "libraries are quiet"
    else:
        codes = forks.start(processes, tmp_path, together.main, tmp_path, stages)
        assert codes == [0] * processes, (tmp_path / "said-0").read_text()[-3000:]
    ranks = [load_file(tmp_path / f"results-{rank}.safetensors") for rank in range(processes)]
    for model in ("static", "transformer"):
        for kind in ("losses", "grad", "weight", "vectors"):
            assert distance(ranks[0], alone, f"{model}.{kind}", f"{model}.{kind}") < TOLERANCE
    for stage in stages:
        for kind in ("losses", "weight", "vectors"):
            assert distance(ranks[0], alone, f"zero{stage}.{kind}", f"transformer.{kind}") < TOLERANCE
    if stages:  # a step that one skips for its scale, the other skips too
        fp16 = {name: value for name, value in ranks[0].items() if name.startswith("fp16-0")}
        assert distance(ranks[0], fp16, f"fp16-{stages[0]}.losses", "fp16-0.losses") < 1e-3
    for other in ranks[1:]:
        differing = [name for name, value in ranks[0].items() if not same_bits(other[name], value)]
        assert not differing


def test_only_training_runs_in_several_processes_and_one_of_them_says_so(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("{}\n")
    (tmp_path / ".embedmill").mkdir()
    ended = torchrun(2, "-m", "components", "filter", cwd=tmp_path)
    assert ended.returncode == 1, "torchrun's own"
    assert (tmp_path / ".embedmill" / "failed").read_text() == "2", "the step's"
    assert ended.stderr.count("embedmill: ") == 1
    assert "embedmill: filter runs in one process; start it without torchrun\n" in ended.stderr
