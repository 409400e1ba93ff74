"""pipelines/flywheel.yaml: one poll, never cached, with options that the command has."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from components.flywheel.command import flywheel as flywheel_group
from tests.conftest import PROJECT
from tests.fixtures.fake_kfp import fake_kfp
from tests.pipelines.rendered import documents

SPEC, PLATFORM = documents("flywheel.yaml")
CONTAINER = SPEC["deploymentSpec"]["executors"]["exec-poll"]["container"]


def test_the_task_polls_with_options_of_the_command_and_is_never_cached() -> None:
    assert CONTAINER["command"] == ["embedmill", "flywheel"]
    command, *arguments = CONTAINER["args"]
    options = {name for option in flywheel_group.commands[command].params for name in option.opts}
    assert set(arguments[::2]) <= options
    assert SPEC["root"]["dag"]["tasks"]["poll"]["cachingOptions"] == {}


def test_what_it_passes_on_are_parameters_of_the_chain() -> None:
    full, _ = documents("full.yaml")
    taken = set(full["root"]["inputDefinitions"]["parameters"])
    own = {"host", "namespace", "experiment", "service_account", "attempts", "feedback"}
    assert set(SPEC["root"]["inputDefinitions"]["parameters"]) - own <= taken


def test_images_are_those_that_submit_replaces() -> None:
    parameters = SPEC["root"]["inputDefinitions"]["parameters"]
    assert CONTAINER["image"] == parameters["train_image"]["defaultValue"]
    assert set(PLATFORM["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) == {"exec-poll"}


def test_the_documented_command_makes_a_recurring_run_that_is_on(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "flywheel.md").read_text(encoding="utf-8").replace("\\\n", "")
    (line,) = [line.strip() for line in page.splitlines() if line.startswith("    kfp recurring-run create")]
    with fake_kfp() as (fake, host):
        command = [str(Path(sys.executable).parent / "kfp"), "--endpoint", host, *shlex.split(line)[1:]]
        env = {**os.environ, "HOME": str(tmp_path)}
        subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, check=True)
    (made,) = fake.recurring.values()
    assert (made["mode"], int(made["max_concurrency"]), made["no_catchup"]) == ("ENABLE", 1, True)
    assert made["runtime_config"]["parameters"] == {"feedback": "s3://team/feedback"}
    assert made["trigger"] == {"cron_schedule": {"cron": "0 */10 * * * *"}}
