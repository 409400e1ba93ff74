"""The plain client: kfp's own command line, as a process, against the fake of the API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.kubeflow import CONTEXT
from tests.fixtures.fake_kfp import TOKEN
from tests.submit.conftest import Server

FULL = "pipelines/full.yaml"
KFP = Path(sys.executable).parent / "kfp"


def kfp(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run([KFP, *arguments], capture_output=True, text=True, env=environment, timeout=120)


@pytest.mark.parametrize("verb", ["create", "submit"])  # submit is its deprecated alias
def test_kfp_runs_the_pipeline_with_no_arguments(server: Server, verb: str) -> None:
    fake, host = server
    done = kfp("--output", "json", "run", verb, "-e", "embedmill", "-f", FULL)
    assert done.returncode == 0, done.stderr
    (run,) = fake.runs.values()
    assert f"{host}/#/runs/details/{run['run_id']}" in done.stdout
    assert (run["display_name"], fake.parameters) == ("embedmill", {})
    assert [each["display_name"] for each in fake.experiments.values()] == ["embedmill"]
    assert ("'submit' is deprecated" in done.stderr) == (verb == "submit")
    assert kfp("run", verb, "-e", "embedmill", "-f", FULL, "-r", "second").returncode == 0
    assert (len(fake.experiments), len(fake.runs)) == (1, 2)


def test_kfp_refuses_a_bare_file(server: Server) -> None:
    for verb in ("create", "submit"):
        assert kfp("run", verb, FULL).returncode == 2
        done = kfp("run", verb, "-e", "embedmill", FULL)
        assert done.returncode == 1
        assert "You must provide one of [package_file, pipeline_id, version]" in done.stderr
    assert not server[0].runs


def test_kfp_reads_values_as_json_so_that_text_which_is_json_wants_quotes(server: Server) -> None:
    fake, _ = server
    create = ("run", "create", "-e", "embedmill", "-f", FULL)
    section = json.dumps({"seed": 7})
    done = kfp(*create, "nodes=2", "recipe=zh", "data_memory=8Gi", f"run={json.dumps(section)}", 'data_cpu="4"')
    assert done.returncode == 0, done.stderr
    given = {"nodes": 2, "recipe": "zh", "data_memory": "8Gi", "run": section, "data_cpu": "4"}
    assert fake.parameters == given
    for wrong, name in ((f"run={section}", "run"), ("data_cpu=4", "data_cpu")):
        done = kfp(*create, wrong)
        assert done.returncode == 1
        assert f"input parameter {name} requires type string" in done.stderr
    done = kfp(*create, "node=2")
    assert "parameter(s) provided are not required by pipeline: node" in done.stderr
    assert len(fake.runs) == 1


def test_kfp_shows_a_token(server: Server, tmp_path: Path) -> None:
    fake, _ = server
    context = tmp_path / "home" / CONTEXT
    context.parent.mkdir(parents=True)
    # else it asks whether it needs one, five times in 25 seconds
    context.write_text(json.dumps({"namespace": "team"}))
    create = ("run", "create", "-e", "embedmill", "-f", FULL)
    fake.token = TOKEN
    assert "the token is not valid" in kfp("--existing-token", "wrong", *create).stderr
    assert kfp("--existing-token", TOKEN, *create).returncode == 0


def test_kfp_follows_a_run_and_lists_it(server: Server) -> None:
    done = kfp("run", "create", "-e", "embedmill", "-f", FULL, "--watch")
    assert "Run is finished with state SUCCEEDED" in done.stdout
    (run,) = server[0].runs
    assert run in kfp("run", "list").stdout


def test_kfp_starts_a_pipeline_again_and_again(server: Server) -> None:
    create = ("recurring-run", "create", "--job-name", "nightly", "--experiment-name", "embedmill", "--enabled")
    done = kfp(*create, "--cron-expression", "0 0 3 * * *", "--pipeline-package-path", FULL, "recipe=zh")
    assert done.returncode == 0, done.stderr
    (recurring,) = server[0].recurring.values()
    assert recurring["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert recurring["runtime_config"]["parameters"] == {"recipe": "zh"}
    # here kfp reads no value: a number would arrive as text
    done = kfp(*create, "--interval-second", "3600", "--pipeline-package-path", FULL, "nodes=2")
    assert "input parameter nodes requires type double or integer" in done.stderr
