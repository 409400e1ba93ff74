"""pipelines/sweep.yaml itself in the real images, by kfp's local Docker runner: a grid, a table, a trial that fails."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
import yaml

from components.core import storage
from tests.containers.cluster import Cluster, outputs

pytestmark = pytest.mark.e2e


def test_a_grid_becomes_a_table_and_a_recipe_and_the_trial_that_fails_fails_the_run_last(cluster: Cluster) -> None:
    rates = [0.001, 0.02, 1e60]  # no training survives the last one
    sections = cluster.sections()
    short = {**sections["pretrain"], "contrast": {**sections["pretrain"]["contrast"], "epochs": 20}}
    grid = {"grid": {"finetune.lr": rates}, "metric": "held@32"}
    asked = {"sweep": json.dumps(grid), "pretrain": json.dumps(short), "shard_groups": 1}
    said = re.sub(r"\x1b\[\d+m", "", cluster.run("sweep", "sweep.yaml", expect=1, **asked))

    # one pretraining for all, and every other trial came to its end
    assert said.count("pod: pretrain was made by an earlier pod") == len(rates)
    assert outputs(cluster, "pretrain")  # the only one
    listed = [info.uri for info in storage.list_files(f"{cluster.root}/sweep")]
    (folder,) = {uri.rpartition("/")[0] for uri in listed}
    measured = [
        json.loads(storage.read_bytes(info.uri))["systems"]["model"]["held"]["32"]
        for info in storage.list_files(f"{cluster.root}/evaluate")
        if info.uri.endswith("/metrics.json")
    ]
    trials = json.loads(storage.read_bytes(f"{folder}/results.json"))["trials"]
    values = [trial["value"] for trial in trials]
    assert len(measured) == 2
    assert (sorted(values[:2]), values[2]) == (sorted(measured), None)

    # the table is there with what failed, also on the run's page, and the best is a recipe
    rows = list(csv.DictReader(io.StringIO(storage.read_bytes(f"{folder}/results.csv").decode())))
    assert [row["state"] for row in rows[:2]] == ["done", "done"]
    assert re.fullmatch(r"failed: finetune: .* the loss is nan; lower the lr", rows[2]["state"])
    best = min(trials[:2], key=lambda trial: (-trial["value"], trial["name"]))
    lr = best["values"]["finetune.lr"]
    assert yaml.safe_load(storage.read_bytes(f"{folder}/best.yaml")) == {"finetune": {"lr": lr}}
    (table,) = (cluster.folder / "sweep").rglob("table")
    assert table.read_bytes() == storage.read_bytes(f"{folder}/sweep.html")

    # and then the run fails
    assert "1 of 3 trials failed, the first one" in said
    assert re.search("Inner task failed: .?check", said) and "(attempt" not in said
