"""pipelines/full.yaml itself, from sources to a registered model, in the real images.

kfp's local Docker runner runs it; the store is a real S3 server, and so is MLflow's. Only Argo's controller is missing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core import storage, tracking
from components.core.manifest import Dataset
from components.core.settings import read_params
from tests.conftest import PROJECT
from tests.e2e.project import Project
from tests.fixtures.git_server import git_server
from tests.fixtures.mlflow_server import serving
from tests.fixtures.seaweed import S3Bucket
from tests.fixtures.small_corpus import records

pytestmark = pytest.mark.e2e
FULL = PROJECT / "pipelines" / "full.yaml"
LABEL = "embedmill.dev/test"
TOKEN = "a-token-of-the-tests"
PIPELINE_SECONDS = 900
MODELS = ("pretrain", "finetune", "export")

# Small enough for a minute, large enough that every data step falls into several parts.
CHANGED: dict[str, Any] = {
    "ingest": {"shard_bytes": 8000},
    "filter": {"languages": [], "task_memory": 64},
    "pretrain": {
        "vocab_size": 600,
        "min_frequency": 1,
        "matryoshka": {"dims": [64, 32]},
        "contrast": {"batch_size": 32, "epochs": 400},
        "checkpoint": {"steps": 50},
    },
    "finetune": {"retrieval": {"batch_size": 32}, "similarity": {"batch_size": 32}, "classes": {"batch_size": 32}},
    "evaluate": {"dims": [64, 32]},
    "register": {"rules": []},
}


@dataclass
class Cluster:
    """What stands in for a cluster: a store, an MLflow server, a Docker daemon, and a git server."""

    bucket: S3Bucket
    mlflow: str
    project: Project
    repository: str
    images: dict[str, str]
    folder: Path

    @property
    def root(self) -> str:
        return f"{self.bucket.uri}/store"

    def sections(self) -> dict[str, Any]:
        """The sections of params.yaml as this run has them."""
        params = read_params(PROJECT / "params.yaml")
        sources = [
            {"uri": f"{self.bucket.uri}/corpus/pairs.jsonl", "task": "retri_contrast", "lang": "en", "holdout": 0.1},
            {"uri": f"{self.bucket.uri}/corpus/graded.jsonl", "task": "cosent", "lang": "en"},
            {"uri": f"{self.bucket.uri}/corpus/classes.jsonl", "task": "cls_contrast", "lang": "en"},
        ]
        changed = {
            **CHANGED,
            "ingest": {**CHANGED["ingest"], "sources": sources},
            "evaluate": {**CHANGED["evaluate"], "suite": [{"name": "held", "type": "heldout", "source": "pairs"}]},
        }
        return {name: _laid(section, changed.get(name, {})) for name, section in params.items()}

    def parameters(self, **more: Any) -> dict[str, Any]:
        declared = yaml.safe_load(FULL.read_text().split("\n---\n")[0])["root"]["inputDefinitions"]["parameters"]
        sections = {name: json.dumps(section) for name, section in self.sections().items() if name in declared}
        commit = self.project.run("git", "rev-parse", "HEAD").strip()
        place = {
            "storage_root": self.root,
            "repository": self.repository,
            "git_sha": commit,
            "result_uri": f"{self.root}/result.json",
        }
        return {**sections, **place, "shard_groups": 3, **more}

    def run(self, name: str, expect: int = 0, **more: Any) -> str:
        """Run the pipeline to its end; what it printed."""
        folder = self.folder / name
        folder.mkdir()
        folder.chmod(0o777)  # the containers write their artefacts here as another user
        request = {
            "pipeline": str(FULL),
            "images": {f"embedmill-{target}:0.1.0": image for target, image in self.images.items()},
            "artefacts": str(folder),
            "labels": {LABEL: str(folder)},  # the daemon may run the same test for others
            "environment": {**self.bucket.env, "MLFLOW_TRACKING_URI": self.mlflow, "GIT_TOKEN": TOKEN},
            "parameters": self.parameters(**more),
        }
        path = self.folder / f"{name}.json"
        path.write_text(json.dumps(request))
        line = [sys.executable, "-m", "tests.containers.local_run", str(path)]
        done = subprocess.run(
            line, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PIPELINE_SECONDS
        )
        (self.folder / f"{name}.log").write_text(done.stdout)
        assert (done.returncode != 0) == (expect != 0), done.stdout[-6000:]
        return done.stdout


def _laid(section: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    result = dict(section)
    for key, value in changed.items():
        result[key] = (
            _laid(result[key], value) if isinstance(value, dict) and isinstance(result.get(key), dict) else value
        )
    return result


@pytest.fixture
def cluster(tmp_path: Path, s3: S3Bucket, images: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    for task, name in (("retri_contrast", "pairs"), ("cosent", "graded"), ("cls_contrast", "classes")):
        columns = {
            "pairs": ("text", "text_pos"),
            "graded": ("text", "text_pair", "label"),
            "classes": ("text", "text_pos"),
        }
        rows = [{key: row[key] for key in columns[name]} for row in records() if row["task"] == task]
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        storage.write_bytes(f"{s3.uri}/corpus/{name}.jsonl", text.encode())
    project_folder = tmp_path / "project"
    project_folder.mkdir()
    project = Project(project_folder, recipe=None)
    project.env.pop("OPENBLAS_CORETYPE", None)  # another kernel than the containers', which do not see it
    server = tmp_path / "mlflow"
    server.mkdir()
    bare = tmp_path / "git" / "embedmill.git"
    project.run("git", "clone", "-q", "--bare", str(project.path), str(bare))
    project.run("git", "-C", str(bare), "config", "http.receivepack", "true")
    with serving(server) as address, git_server(bare.parent, TOKEN) as git:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        project.env["MLFLOW_TRACKING_URI"] = address
        yield Cluster(s3, address, project, f"{git}/{bare.name}", images, tmp_path)


def outputs(cluster: Cluster, step: str) -> str:
    """The one place where a step's outputs lie."""
    (finished,) = [
        info.uri for info in storage.list_files(f"{cluster.root}/{step}") if info.uri.endswith("/finished.json")
    ]
    return finished.rpartition("/")[0]


def remote_tree(uri: str) -> dict[str, bytes]:
    return {info.uri.removeprefix(f"{uri}/"): storage.read_bytes(info.uri) for info in storage.list_files(uri)}


def local_tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill_once(folder: Path, step: str, ready: str, killed: threading.Event) -> None:
    """Kill the container of a step of the run in `folder` as soon as there is a whole checkpoint under `ready`."""
    import docker

    client = docker.from_env()
    deadline = time.monotonic() + PIPELINE_SECONDS
    while time.monotonic() < deadline and not killed.is_set():
        for container in client.containers.list(filters={"label": f"{LABEL}={folder}"}, ignore_removed=True):
            if container.attrs["Config"]["Cmd"][:3] == ["embedmill", "pod", step] and any(
                info.uri.endswith("COMPLETE") for info in storage.list_files(ready)
            ):
                container.kill("SIGKILL")
                killed.set()
                break
        time.sleep(0.05)


def test_the_pipeline_makes_the_model_that_dvc_makes_although_a_container_is_killed(cluster: Cluster) -> None:
    killed = threading.Event()
    killer = threading.Thread(
        target=kill_once, args=(cluster.folder / "whole", "pretrain", f"{cluster.root}/pretrain", killed), daemon=True
    )
    killer.start()
    said = re.sub(r"\x1b\[\d+m", "", cluster.run("whole"))
    assert killed.is_set()
    assert "Task pretrain failed (attempt 1/4). Retrying" in said
    assert re.search(r"pretrain: goes on after step [1-9]", said)

    # every data step fell into parts, and nothing was lost on the way
    ingest = Dataset.open(f"{outputs(cluster, 'ingest')}/ingest")
    assert len(ingest.shards) == 3
    for stage in ("ingest-shards", "filter-judge", "filter-exact", "filter-near", "filter-write", "score-shards"):
        assert said.count(f"Executing task '{stage}'") == 3
    for step, before in (("filter", ingest), ("score", Dataset.open(f"{outputs(cluster, 'filter')}/filter"))):
        after = Dataset.open(f"{outputs(cluster, step)}/{step}")
        ledger = after.ledger
        assert ledger.rows_in.total() == before.rows
        assert after.rows == ledger.rows_out.total() > 0

    # what the page of the run shows
    shown = list((cluster.folder / "whole").rglob("shown_*"))
    assert {path.name for path in shown} == {"shown_headline", "shown_metrics", "shown_page"}
    (page,) = [path for path in shown if path.name == "shown_page"]
    assert page.read_text().startswith("<!doctype html>")

    # the model is registered, is champion, and belongs to the run
    client = tracking.connect()
    champion = tracking.champion(client)
    assert champion is not None and champion.version == "1"
    run = client.get_run(champion.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["kfp.run_id"]
    assert run.data.tags["state"] == "SUCCEEDED"
    result = json.loads(storage.read_bytes(f"{cluster.root}/result.json"))
    assert (result["version"], result["gate"], result["champion"]) == (1, "passed", True)

    # the same parameters through DVC on a laptop: the same bytes
    project = cluster.project
    params = yaml.safe_dump(cluster.sections(), allow_unicode=True, sort_keys=False)
    (project.path / "params.yaml").write_text(params)
    project.run("dvc", "repro", "export")
    for step in MODELS:
        made = remote_tree(f"{outputs(cluster, step)}/{step}")
        assert made == local_tree(project.path / "models" / step)

    # and a laptop can fetch what the cluster made
    repository = str(cluster.folder / "git" / "embedmill.git")
    branches = project.run("git", "ls-remote", "--heads", repository).split()
    (branch,) = [name.removeprefix("refs/heads/") for name in branches if "/runs/" in name]
    laptop = cluster.folder / "laptop"
    project.run("git", "clone", "-q", "--branch", branch, repository, str(laptop))
    subprocess.run(["dvc", "pull", "-q", "models/export"], cwd=laptop, env=project.env, check=True)
    assert local_tree(laptop / "models" / "export") == local_tree(project.path / "models" / "export")

    # a second run finds everything made and registers nothing new
    again = cluster.run("again")
    assert again.count("made by an earlier pod") >= len(("ingest", "filter", "score", *MODELS, "evaluate"))
    assert [version.version for version in client.search_model_versions("name = 'embedmill'")] == ["1"]


def test_a_step_that_fails_fails_the_run_and_the_handler_says_so(cluster: Cluster) -> None:
    sections = cluster.sections()
    nothing_left = json.dumps({**sections["filter"], "min_characters": 100_000})
    said = cluster.run("failing", expect=1, filter=nothing_left)
    assert "no row is left to train on" in said
    assert "Task" in said and "finish" in said
    client = tracking.connect()
    (run,) = tracking.find_runs(client, tracking.experiment_id(client), {"state": "FAILED"})
    assert run.info.status == "FAILED"
    assert not storage.list_files(f"{cluster.root}/score")
