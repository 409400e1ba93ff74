"""pipelines/full.yaml itself, from sources to a registered model, in the real images.

kfp's local Docker runner runs it; the store is a real S3 server, and so is MLflow's. Only Argo's controller is missing.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from components.core import storage, tracking
from components.core.manifest import Dataset
from tests.containers.cluster import LABEL, PIPELINE_SECONDS, Cluster, outputs

pytestmark = pytest.mark.e2e
MODELS = ("pretrain", "finetune", "export")


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
