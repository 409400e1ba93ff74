"""What stands in for a cluster: kfp's local Docker runner, a real S3 server, a real MLflow server and a git server."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core import storage
from components.core.settings import read_params
from tests.conftest import PROJECT
from tests.e2e.project import Project
from tests.fixtures.seaweed import S3Bucket
from tests.pipelines.rendered import documents

LABEL = "embedmill.dev/test"
TOKEN = "a-token-of-the-tests"
PIPELINE_SECONDS = 900

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
    """A store, an MLflow server, a Docker daemon, and a git server with a project."""

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

    def parameters(self, pipeline: str, **more: Any) -> dict[str, Any]:
        """What a pipeline is given, of all that it may be."""
        declared = documents(pipeline)[0]["root"]["inputDefinitions"]["parameters"]
        sections = {name: json.dumps(section) for name, section in self.sections().items()}
        commit = self.project.run("git", "rev-parse", "HEAD").strip()
        place = {
            "storage_root": self.root,
            "repository": self.repository,
            "git_sha": commit,
            "result_uri": f"{self.root}/result.json",
        }
        given = {**sections, **place, "shard_groups": 3}
        return {**{name: value for name, value in given.items() if name in declared}, **more}

    def run(self, name: str, pipeline: str = "full.yaml", expect: int = 0, **more: Any) -> str:
        """Run a pipeline to its end; what it printed."""
        folder = self.folder / name
        folder.mkdir()
        folder.chmod(0o777)  # the containers write their artefacts here as another user
        request = {
            "pipeline": str(PROJECT / "pipelines" / pipeline),
            "images": {f"embedmill-{target}:0.1.0": image for target, image in self.images.items()},
            "artefacts": str(folder),
            "labels": {LABEL: str(folder)},  # the daemon may run the same test for others
            "environment": {**self.bucket.env, "MLFLOW_TRACKING_URI": self.mlflow, "GIT_TOKEN": TOKEN},
            "parameters": self.parameters(pipeline, **more),
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


def outputs(cluster: Cluster, step: str) -> str:
    """The one place where a step's outputs lie."""
    (finished,) = [
        info.uri for info in storage.list_files(f"{cluster.root}/{step}") if info.uri.endswith("/finished.json")
    ]
    return finished.rpartition("/")[0]
