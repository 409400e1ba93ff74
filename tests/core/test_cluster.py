"""The executor on a real Ray cluster: same results, same bytes, same answer to a worker that dies."""

from __future__ import annotations

import json
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

from components.core import cluster
from components.core.build import build_dataset
from components.core.errors import InputError, UsageError
from components.core.execute import map_ordered, using, worker_count
from tests.conftest import Embedmill
from tests.core.test_manifest import in_pieces, tasks, tree

pytestmark = pytest.mark.usefixtures("ray_cluster")


def die_at_first(item: int, folder: str, times: int) -> int:
    """Square of the item; the process that is given 3 kills itself in the middle of it, the first `times` times."""
    marks = Path(folder) / "deaths"
    if item == 3 and (not marks.exists() or marks.stat().st_size < times):
        with marks.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def invert(item: int) -> float:
    return 1 / item


def test_a_dataset_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    work = partial(in_pieces, log=str(tmp_path / "log"))
    build_dataset(str(tmp_path / "one"), "test", tasks(5), work, "f", workers=2)
    with using("ray", "test", {"output": str(tmp_path / "two")}):
        assert worker_count(0) == 2
        build_dataset(str(tmp_path / "two"), "test", tasks(5), work, "f", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_relative_paths_mean_the_folder_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("found")
    with using("ray", "test", {}):
        assert list(map_ordered(Path.read_text, [Path("here")] * 2, 2)) == ["found"] * 2


def test_a_worker_that_dies_is_said_and_its_item_tried_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with using("ray", "filter", {}):
        work = partial(die_at_first, folder=str(tmp_path), times=1)
        assert list(map_ordered(work, range(8), 2)) == [number * number for number in range(8)]
        said = capfd.readouterr().err.splitlines()
        assert "filter: item 3: its worker died (killed); trying again, attempt 2 of 3" in said
        with pytest.raises(InputError, match=r"item 3: its worker died \(killed\), 3 times in all; most"):
            list(map_ordered(partial(die_at_first, folder=str(tmp_path), times=99), range(8), 2))


def test_an_error_in_a_task_is_raised_here_as_it_was() -> None:
    with using("ray", "test", {}), pytest.raises(ZeroDivisionError, match=r"^division by zero$"):
        list(map_ordered(invert, [1, 0], 2))


def test_a_local_path_is_refused_on_a_cluster_of_several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    nodes = [{"Alive": True, "NodeManagerAddress": address} for address in ("10.0.0.1", "10.0.0.2")]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    cluster.check_shared({"input": "s3://bucket/ingest"})
    with pytest.raises(UsageError, match=r"--output data/out: a path of this machine, and the Ray cluster has 2 mach"):
        cluster.check_shared({"input": "s3://bucket/ingest", "output": "data/out"})


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'embedmill\[cluster\]'"), using("ray", "filter", {}):
        pass


def test_a_cluster_that_does_not_answer_is_named(embedmill: Embedmill, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("run: {executor: ray}\n")
    done = embedmill("score", env={"RAY_ADDRESS": "127.0.0.1:1"})
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.splitlines()
    assert line == "embedmill: RAY_ADDRESS=127.0.0.1:1: no Ray cluster answers there (Connection refused)"


def test_steps_run_on_a_cluster_from_the_command_line(embedmill: Embedmill, tmp_path: Path, ray_cluster: str) -> None:
    """Ingest, and filter with its shuffle: the same bytes as in processes of this machine."""
    names = ("a", "b")
    for name in names:
        rows = [{"text": f"question {name} {n % 50}", "text_pos": f"answer number {n % 50}"} for n in range(80)]
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows) + "{broken\n")
    sources = [{"uri": f"{name}.jsonl", "name": name, "task": "retri_contrast", "lang": "en"} for name in names]
    suite = [{"name": "held", "type": "heldout", "source": "a"}]
    params = {"ingest": {"sources": [{**sources[0], "holdout": 0.2}, sources[1]]}, "evaluate": {"suite": suite}}
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    on_ray = ("--set", "run.executor=ray", "--set", "run.workers=2")
    for step, *options in (
        ("sources",),
        ("ingest",),
        ("ingest", "--output", "ray-ingest", "--heldout", "ray-heldout", *on_ray),
        ("filter",),
        ("filter", "--ingest", "ray-ingest", "--output", "ray-filter", "--funnel", "funnel.csv", *on_ray),
    ):
        done = embedmill(step, *options, env={"RAY_ADDRESS": ray_cluster})
        assert done.returncode == 0, done.stderr
    for step in ("ingest", "heldout", "filter"):
        assert tree(tmp_path / f"ray-{step}") == tree(tmp_path / "data" / step)
    funnel = tmp_path / "reports" / "filter" / "funnel.csv"
    assert (tmp_path / "funnel.csv").read_bytes() == funnel.read_bytes()
