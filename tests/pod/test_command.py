"""`embedmill pod`: a step with its places in a store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from components import chain
from components.cli import cli
from components.core.errors import GateRefused, InputError, UsageError
from components.core.recipes import HOME_KEY
from components.core.step import Context
from components.launch.job import Job
from components.pod import machines
from tests.conftest import PROJECT
from tests.fixtures.small_corpus import SMALL, records, write_dataset

FILES = ("first.jsonl", "second.jsonl", "third.jsonl")
INGEST = {"sources": [{"uri": name, "task": "retri_contrast", "lang": "en"} for name in FILES], "shard_bytes": 1000}
SUITE = {"suite": [{"name": "dev", "type": "sts", "uri": "graded.jsonl"}]}
SECTIONS: dict[str, dict[str, Any]] = {"run": {"workers": 1}, "ingest": INGEST, "evaluate": SUITE}


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with two small files to read, and the store beside it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    rows = records()
    pairs = [{"text": row["text"], "text_pos": row["text_pos"]} for row in rows if row["task"] == "retri_contrast"]
    graded = [{"text": row["text"], "text_pair": row["text_pair"], "label": row["label"]} for row in rows[1::3]]
    for name, listed in (*((name, pairs[place::3]) for place, name in enumerate(FILES)), ("graded.jsonl", graded)):
        Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in listed))
    return folder


def pod(step: str, *more: str, sections: dict[str, dict[str, Any]] | None = None, **inputs: str) -> dict[str, Any]:
    """Run a pod; what it wrote for the pipeline, by option and port."""
    declared = chain.step(step)
    given = {**SECTIONS, **(sections or {})}
    line = ["pod", step, "--root", "../store", "--image", "image:1"]
    for name in ("run", *declared.sections):
        line += ["--section", name, json.dumps(given.get(name, {}))]
    for port, uri in inputs.items():
        line += ["--in", port, uri]
    told = Path("told")
    wanted = {port.name: told / port.name for port in declared.outputs if not port.optional}
    if "--stage" in more:
        wanted = {}
    for name, file in wanted.items():
        line += ["--out", name, str(file)]
    cli.main([*line, *more], standalone_mode=False)
    return {name: file.read_text() for name, file in wanted.items()}


def tree(folder: str | Path) -> dict[str, bytes]:
    root = Path(folder)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def sources(**options: str) -> dict[str, Any]:
    more = ["--parts", "told/parts", "--version", "told/version"]
    for name, value in options.items():
        more += [f"--{name.replace('_', '-')}", value]
    return pod("sources", *more)


def test_sources_lie_where_their_content_says() -> None:
    first = sources()
    assert sources() == first
    with Path("first.jsonl").open("a") as file:
        file.write('{"text": "one more", "text_pos": "one more passage of text"}\n')
    second = sources()
    assert second["output"] != first["output"]
    assert Path(first["output"]).exists() and Path(second["output"]).exists()


def test_a_run_for_one_version_of_the_data_refuses_another() -> None:
    sources()
    version = Path("told/version").read_text()
    sources(data_version=version)
    with Path("first.jsonl").open("a") as file:
        file.write('{"text": "one more", "text_pos": "one more passage of text"}\n')
    with pytest.raises(InputError, match=f"data_version {version[:12]}: the sources hold other data now"):
        sources(data_version=version)


def test_parts_and_then_the_step_make_what_the_step_alone_makes() -> None:
    listed = sources(shard_groups="3")
    parts = json.loads(Path("told/parts").read_text())
    assert parts == ["1/3", "2/3", "3/3"]
    for part in reversed(parts):
        pod("ingest", "--stage", "shards", "--part", part, "--done", f"told/done-{part[0]}", sources=listed["output"])
        assert Path(f"told/done-{part[0]}").read_text() == part
    made = pod("ingest", "--after", json.dumps(parts), "--parts", "told/parts", sources=listed["output"])
    assert json.loads(Path("told/parts").read_text()) == parts
    line = [
        "ingest",
        "--section",
        "run",
        "{}",
        "--section",
        "ingest",
        json.dumps(INGEST),
        "--sources",
        listed["output"],
    ]
    cli.main([*line, "--output", "alone/ingest", "--heldout", "alone/heldout"], standalone_mode=False)
    assert tree(made["output"]) == tree("alone/ingest")
    assert tree(made["heldout"]) == tree("alone/heldout")


def test_a_stage_that_lost_a_part_is_not_taken_for_done() -> None:
    listed = sources()
    with pytest.raises(InputError, match="not every part"):
        pod("ingest", "--after", '["1/3", "3/3"]', sources=listed["output"])
    with pytest.raises(UsageError, match="expected a JSON list of parts"):
        pod("ingest", "--after", "all", sources=listed["output"])


def test_labels_are_checked_before_any_work() -> None:
    with pytest.raises(UsageError, match="label team=a b: the value should be"):
        pod("sources", "--labels", "team=a b")
    assert not Path("../store").exists()


def test_what_is_there_is_not_made_again() -> None:
    listed = sources()
    made = pod("ingest", sources=listed["output"])
    shards = {path: path.stat().st_mtime_ns for path in Path(made["output"]).rglob("*")}
    Path("first.jsonl").unlink()
    assert pod("ingest", sources=listed["output"]) == made
    assert {path: path.stat().st_mtime_ns for path in Path(made["output"]).rglob("*")} == shards


def test_the_place_follows_from_what_decides_the_bytes() -> None:
    listed = sources()
    made = pod("ingest", sources=listed["output"])
    same = pod("ingest", sections={"run": {"workers": 2, "executor": "loky"}}, sources=listed["output"])
    assert same == made
    for different in (
        {"sections": {"run": {"seed": 7}}},
        {"sections": {"ingest": {**INGEST, "shard_bytes": 4000}}},
    ):
        assert pod("ingest", sources=listed["output"], **different) != made


def test_a_recipe_and_single_values_are_laid_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    (home / "recipes").mkdir(parents=True)
    (home / "params.yaml").write_text("ingest: {sources: [], shard_bytes: 16777216}\n")
    (home / "recipes" / "small.yaml").write_text("ingest: {shard_bytes: 2000}\n")
    monkeypatch.setenv(HOME_KEY, str(home))
    listed = sources()
    bare = {"ingest": {"sources": INGEST["sources"]}}
    plain = pod("ingest", sections=bare, sources=listed["output"])
    laid = pod("ingest", "--recipe", "small", sections=bare, sources=listed["output"])
    over = pod("ingest", "--overrides", '{"ingest.shard_bytes": 2000}', sources=listed["output"])
    assert plain != laid == over


def test_an_error_of_the_step_is_the_pods_and_leaves_the_place_unfinished() -> None:
    listed = sources()
    with pytest.raises(UsageError, match=r"--section: ingest\.shard_bites: unknown key; did you mean shard_bytes"):
        pod("ingest", sections={"ingest": {"shard_bites": 3}}, sources=listed["output"])
    Path("first.jsonl").unlink()
    with pytest.raises(InputError, match=r"first\.jsonl"):
        pod("ingest", sources=listed["output"])
    assert not list(Path("../store/ingest").rglob("finished.json"))


@pytest.fixture
def scored(work: Path) -> str:
    write_dataset("../store/scored", records())
    return "../store/scored"


TRAINED = {**SMALL, "objective": "contrastive", "contrast": {"epochs": 1, "batch_size": 16}}


def test_a_training_shows_its_numbers_and_leaves_no_checkpoint(scored: str) -> None:
    sections = {"run": {"threads": 1}, "pretrain": TRAINED}
    artifact = "told/artefact"
    show = [
        "--show",
        "metrics",
        artifact,
        "minio://here/metrics",
        "--executor-input",
        json.dumps({"outputs": {"outputFile": "told/executor.json"}}),
    ]
    made = pod("pretrain", *show, sections=sections, input=scored)
    metrics = json.loads(Path(made["metrics"]).read_text())
    (said,) = json.loads(Path("told/executor.json").read_text())["artifacts"]["shown_metrics"]["artifacts"]
    assert said["uri"] == "minio://here/metrics"
    assert said["metadata"]["records"] == metrics["records"]
    assert all(isinstance(value, int | float) for value in said["metadata"].values())
    assert Path(artifact).read_bytes() == Path(made["metrics"]).read_bytes()
    place = Path(made["output"]).parent
    assert not (place / "checkpoints").exists() or not tree(place / "checkpoints")


def test_several_nodes_are_a_job_that_is_named_by_its_work(scored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []

    def follow(job: Job, log: Any) -> None:
        jobs.append(job)
        for option in ("--output", "--loss", "--dev", "--metrics"):
            path = Path(job.command[job.command.index(option) + 1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")

    monkeypatch.setattr(machines, "run_train_job", follow)
    size = ["--nodes", "2", "--gpus-per-node", "8", "--node-cpu", "16", "--node-memory", "64Gi", "--queue", "gpu"]
    monkeypatch.setenv("EMBEDMILL_PIPELINE", "full")  # from a label of the pod
    size += ["--labels", "team=search,cost-center=42"]
    made = pod("pretrain", *size, "--run", "run-1", sections={"pretrain": TRAINED}, input=scored)
    (job,) = jobs
    assert (job.nodes, job.gpus, job.cpu, job.memory, job.queue, job.image) == (2, 8, "16", "64Gi", "gpu", "image:1")
    labels = {"embedmill.dev/run": "run-1", "embedmill.dev/pipeline": "full", "team": "search", "cost-center": "42"}
    assert job.labels == labels
    place = made["output"].rpartition("/")[0]
    assert job.name == f"embedmill-pretrain-{place.rpartition('/')[2][:12]}"
    assert job.command[job.command.index("--checkpoints") + 1] == f"{place}/checkpoints"
    assert job.command[job.command.index("--input") + 1] == scored


def test_a_data_step_on_ray_is_one_job_and_its_stages_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []
    monkeypatch.setattr(machines, "run_ray_job", lambda job, log, **more: jobs.append(job))
    listed = sources()
    ray = {"run": {"executor": "ray"}}
    pod("ingest", "--stage", "shards", "--part", "1/1", "--done", "told/done", sections=ray, sources=listed["output"])
    assert not jobs and Path("told/done").read_text() == "1/1"
    pod("ingest", "--train-image", "train:1", sections=ray, sources=listed["output"])
    (job,) = jobs
    assert (job.step, job.image) == ("ingest", "train:1")
    assert job.command[:2] == ("embedmill", "ingest")
    assert json.loads(job.command[job.command.index("run") + 1]) == {"executor": "ray"}


@pytest.mark.parametrize("strict", [False, True])
def test_who_started_the_run_finds_the_version_even_if_the_gate_refuses_it(
    strict: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def register(ctx: Context) -> None:
        Path(ctx.outputs["version"]).parent.mkdir(parents=True, exist_ok=True)
        Path(ctx.outputs["version"]).write_text('{"gate": "failed", "version": 3}')
        if strict:
            raise GateRefused("one point below the champion")

    monkeypatch.setattr("components.register.pipeline.run", register)
    Path("made").mkdir()
    inputs = {port.name: f"made/{port.name}" for port in chain.step("register").inputs}
    for port in chain.step("register").inputs:
        path = Path(inputs[port.name])
        path.mkdir() if port.kind == "model" else path.write_text("{}")
    with pytest.raises(GateRefused) if strict else nullcontext():
        pod("register", "--result-uri", "told/result.json", **inputs)
    assert json.loads(Path("told/result.json").read_text()) == {"gate": "failed", "version": 3}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--root", ""], "--root: is empty; expected s3://bucket/prefix"),
        (["--part", "1/2"], "--stage and --part go together"),
        (["--stage", "shards"], "--stage and --part go together"),
        (["--in", "source", "a"], "--in source: no such port; there are: sources"),
        (["--out", "outputs", "f"], "--out outputs: no such port; there are: output, heldout"),
        (["--show", "output", "f", "s3://a/b"], "--show output: no such port; there are: none"),
        (["--overrides", "{"], "--overrides: not valid JSON"),
        (["--overrides", '{"run": 1}'], '--overrides {"run": 1}: expected a JSON object such as {"finetune.lr": 0.01}'),
    ],
)
def test_a_wrong_argument_is_said_before_the_step_works(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        cli.main(["pod", "ingest", "--root", "../store", *arguments], standalone_mode=False)
    assert str(raised.value).startswith(said)
    assert not Path("../store").exists()


def test_an_output_parameter_that_cannot_be_written_is_named() -> None:
    Path("file").touch()
    with pytest.raises(InputError, match=r"^file/version: "):
        sources(version="file/version")


def test_a_pod_that_is_told_to_end_says_so_and_ends(tmp_path: Path) -> None:
    """As the first process of a container, to which SIGTERM does nothing unless it is handled."""
    line = [sys.executable, "-m", "components", "pod", "sources", "--root", "../store", "--section", "run", "{}"]
    line += ["--section", "ingest", json.dumps({"sources": [{"uri": "fifo.jsonl"}]}), "--section", "evaluate", "{}"]
    os.mkfifo("fifo.jsonl")  # nobody writes to it, so that the step waits
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while signal.SIGTERM not in _caught(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.lstrip()) == (
        5,
        "embedmill: interrupted; finished work is kept, run the same command to go on\n",
    )


def _caught(pid: int) -> set[int]:
    """The signals that a process has its own handlers for."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return {number for number in range(1, 32) if mask >> (number - 1) & 1}
