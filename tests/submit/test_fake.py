"""The fake of the API refuses what it does not know: a client that passes against it has said nothing wrong."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml

from tests.conftest import PROJECT
from tests.fixtures.fake_kfp import TOKEN, FakeKfp, fake_kfp

DOCUMENTS = list(yaml.load_all((PROJECT / "pipelines/full.yaml").read_text(), Loader=yaml.CSafeLoader))


@pytest.fixture
def host() -> Iterator[str]:
    with fake_kfp() as (_, address):
        yield address


def ask(host: str, method: str, path: str, body: Any = None, token: str | None = None) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{host}/apis/v2beta1/{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def run_of(host: str) -> dict[str, Any]:
    experiment = ask(host, "POST", "experiments", {"display_name": "mine"})[1]["experiment_id"]
    package = {"pipeline_spec": deepcopy(DOCUMENTS[0]), "platform_spec": deepcopy(DOCUMENTS[1])}
    return {"experiment_id": experiment, "display_name": "run", "pipeline_spec": package, "runtime_config": {}}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "pipelines", None, 404, "Not Found"),
        ("DELETE", "runs", None, 501, "Method Not Allowed"),
        ("GET", "runs?page=2", None, 400, "unknown query parameter page"),
        ("GET", "runs?sort_by=name", None, 400, "Received invalid sort by format"),
        ("GET", "runs?filter=no", None, 400, "failed to parse filter"),
        ("GET", 'runs?filter={"predicates":[{"key":"id"}]}', None, 400, "knows no predicate"),
        ("POST", "experiments", {"name": "mine"}, 400, 'unknown field "name"'),
        ("POST", "experiments", {"experiment_id": "1"}, 400, "is the server's to set"),
        ("POST", "experiments", {}, 400, "Experiment name is empty"),
        ("GET", "experiments/none", None, 404, "Experiment none not found"),
        ("GET", "runs/none", None, 404, "Run none not found"),
    ],
)
def test_routes_fields_and_names_that_are_none(
    host: str, method: str, path: str, body: Any, status: int, said: str
) -> None:
    code, answer = ask(host, method, path, body)
    assert code == status
    assert said in answer["details"][0]["message"]


def test_an_experiment_of_this_name_is_there(host: str) -> None:
    assert ask(host, "POST", "experiments", {"display_name": "mine"})[0] == 200
    code, answer = ask(host, "POST", "experiments", {"display_name": "mine"})
    assert (code, answer["code"]) == (409, 6)


def wrong_field(body: dict[str, Any]) -> None:
    body["pipeline_spec"]["pipeline_spec"]["root"]["inputs"] = {}


def wrong_container(body: dict[str, Any]) -> None:
    body["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]["exec-finish"]["container"]["images"] = "a"


def wrong_platform(body: dict[str, Any]) -> None:
    executors = body["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-finish"]["privileged"] = True


def lost_executor(body: dict[str, Any]) -> None:
    body["pipeline_spec"]["pipeline_spec"]["components"]["comp-finish"]["executorLabel"] = "exec-gone"


def lost_component(body: dict[str, Any]) -> None:
    del body["pipeline_spec"]["pipeline_spec"]["components"]["comp-register"]


def needed(body: dict[str, Any]) -> None:
    parameters = body["pipeline_spec"]["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
    parameters["recipe"] = {"parameterType": "STRING"}


def old_schema(body: dict[str, Any]) -> None:
    body["pipeline_spec"]["pipeline_spec"]["schemaVersion"] = "2.0.0"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (wrong_field, "invalid v2 pipeline spec"),
        (wrong_container, "invalid v2 pipeline spec"),
        (wrong_platform, "invalid v2 pipeline spec"),
        (lost_executor, "no executor exec-gone"),
        (lost_component, "no component comp-register"),
        (needed, "parameter recipe is not optional, yet has neither default value nor user provided value"),
        (old_schema, "KFP only supports schema version 2.1.0, but the pipeline spec has version 2.0.0"),
    ],
)
def test_a_pipeline_that_is_wrong_somewhere(host: str, change: Callable[[dict[str, Any]], None], said: str) -> None:
    body = run_of(host)
    change(body)
    code, answer = ask(host, "POST", "runs", body)
    assert (code, answer["code"]) == (400, 3)
    assert said in answer["details"][0]["message"]


def test_a_run_goes_on_is_ended_and_tried_again(host: str) -> None:
    run = ask(host, "POST", "runs", run_of(host))[1]["run_id"]
    assert ask(host, "POST", f"runs/{run}:retry")[0] == 400
    assert ask(host, "POST", f"runs/{run}:terminate") == (200, {})
    assert ask(host, "POST", f"runs/{run}:terminate")[0] == 400
    assert ask(host, "GET", f"runs/{run}")[1]["state"] == "CANCELED"
    assert ask(host, "POST", f"runs/{run}:retry") == (200, {})
    while (shown := ask(host, "GET", f"runs/{run}")[1])["state"] == "RUNNING":
        pass
    assert shown["state"] == "SUCCEEDED"
    assert {task["state"] for task in shown["run_details"]["task_details"]} == {"SUCCEEDED"}


def test_a_token_is_wanted_or_not() -> None:
    with fake_kfp(FakeKfp(token=TOKEN)) as (_, host):
        assert ask(host, "GET", "healthz")[1]["code"] == 16
        assert ask(host, "GET", "healthz", token="other")[0] == 401
        assert ask(host, "GET", "healthz", token=TOKEN)[0] == 200
    with fake_kfp() as (_, host):
        assert ask(host, "GET", "healthz", token=TOKEN)[0] == 400
