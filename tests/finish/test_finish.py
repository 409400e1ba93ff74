"""The exit handler with a real MLflow, as a file and as a server, and a real receiver of webhooks on loopback."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from google.protobuf import json_format
from kfp.local import io, placeholder_utils
from kfp.local.orchestrator.orchestrator_utils import OrchestratorUtils
from kfp.pipeline_spec import pipeline_spec_pb2

from components.core import kubeflow, tracking
from components.core.errors import EmbedmillError, InputError, UsageError
from components.finish import webhook
from components.finish.command import finish
from components.finish.status import Status
from tests.conftest import PROJECT
from tests.fixtures.mlflow_server import serving

# As kfp's local runner passes it, and as the server does (the latter in ML Metadata's words, with an empty error).
LOCAL = {"pipeline_job_resource_name": "local-pipeline-chain", "pipeline_task_name": "chain"}
SERVER = {"pipelineJobResourceName": "embedmill-x7", "pipelineTaskName": "exit-handler-1"}


class Receiver:
    """What came, and the answers that are next."""

    def __init__(self) -> None:
        self.came: list[tuple[dict[str, str], Any]] = []
        self.answers: list[int] = []


@pytest.fixture
def receiver() -> Iterator[tuple[Receiver, str]]:
    box = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            box.came.append((dict(self.headers.items()), json.loads(body)))
            status = box.answers.pop(0) if box.answers else 200
            if status == 0:  # no answer
                return
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"http://127.0.0.1:{server.server_address[1]}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield box, f"http://127.0.0.1:{server.server_address[1]}/hook/secret-part"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webhook, "PAUSE_SECONDS", 0.001)
    for name in (tracking.URI_KEY, webhook.TOKEN_KEY, kubeflow.ENDPOINT_KEY, kubeflow.PAGES_KEY):
        monkeypatch.delenv(name, raising=False)


def end(status: object, *options: str, run: str = "r1") -> Result:
    text = status if isinstance(status, str) else json.dumps(status)
    return CliRunner().invoke(finish, ["--status", text, "--run", run, "--name", "nightly", *options])


def runs() -> list[Any]:
    client = tracking.connect()
    return list(client.search_runs([tracking.experiment_id(client)]))


def test_a_run_that_never_registered_gets_a_run_of_its_own_once(receiver: tuple[Receiver, str]) -> None:
    failed = {"state": "FAILED", "error": {"code": 1, "message": "Task chain failed."}, **LOCAL}
    for _ in range(2):
        result = end(failed, "--recipe", "zh", "--git-sha", "abc")
        assert result.exit_code == 0
    (run,) = runs()
    assert (run.info.status, run.info.run_name) == ("FAILED", "nightly")
    tags = {key: value for key, value in run.data.tags.items() if key != "mlflow.runName"}
    assert tags == {
        "kfp.run_id": "r1",
        "step": "pipeline",
        "state": "FAILED",
        "error": "Task chain failed.",
        "recipe": "zh",
        "git.sha": "abc",
        "mlflow.source.git.commit": "abc",
    }
    assert result.stderr == f"finish: run nightly ended: FAILED: Task chain failed.; {run.info.run_id}\n"
    assert not receiver[0].came
    assert end(failed, run="r2").exit_code == 0
    assert len(runs()) == 2


@pytest.mark.parametrize(
    ("status", "ended", "state"),
    [
        ({"state": "COMPLETE", "error": {}, **SERVER}, "FINISHED", "SUCCEEDED"),
        ({"state": "SUCCEEDED", "error": {}, **LOCAL}, "FINISHED", "SUCCEEDED"),
        ({"state": "FAILED", "error": {"code": 9}, **SERVER}, "FAILED", "FAILED"),
        ({"state": "CANCELED", **SERVER}, "KILLED", "CANCELED"),
        ({"state": "CANCELLED", **SERVER}, "KILLED", "CANCELED"),
        ({"state": "RUNNING", "error": {}, **SERVER}, "FINISHED", "UNKNOWN"),  # of a pipeline with loops, before 2.17
        ("", "FINISHED", "UNKNOWN"),
    ],
)
def test_the_run_that_register_made_ends_as_the_pipeline_did(status: object, ended: str, state: str) -> None:
    client = tracking.connect()
    tags = {"kfp.run_id": "r1", "step": "pipeline", "identity": "i", "error": "of an earlier attempt"}
    made = client.create_run(tracking.experiment_id(client), tags=tags)
    child = client.create_run(tracking.experiment_id(client), tags={"kfp.run_id": "r1", "step": "pretrain"})
    client.set_terminated(made.info.run_id)
    assert end(status).exit_code == 0
    run = client.get_run(made.info.run_id)
    assert (run.info.status, run.data.tags["state"], run.data.tags["error"]) == (ended, state, "")
    assert client.get_run(child.info.run_id).info.status == "RUNNING"
    assert len(runs()) == 2


def test_a_run_of_unknown_state_that_came_to_no_model_has_failed() -> None:
    assert end({"state": "RUNNING", **SERVER}).exit_code == 0
    (run,) = runs()
    assert (run.info.status, run.data.tags["state"]) == ("FAILED", "UNKNOWN")


@pytest.mark.parametrize("text", ["{", "[]", '"SUCCEEDED"', '{"state": "FAILED", "error": "no"}'])
def test_what_is_no_status_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--status: "):
        Status.parse(text)


@pytest.mark.parametrize("run_id", ["", "r' or run_id = 'x", "two words"])
def test_what_is_no_id_of_a_run_is_a_usage_error_and_leaves_mlflow_alone(run_id: str) -> None:
    done = end("", run=run_id)
    assert isinstance(done.exception, UsageError)
    assert str(done.exception).startswith(f"--run {run_id!r}: expected the id of a run")


def test_a_webhook_gets_the_state_with_links_and_token(
    receiver: tuple[Receiver, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, url = receiver
    monkeypatch.setenv(webhook.TOKEN_KEY, "not-a-real-token")
    monkeypatch.setenv(kubeflow.PAGES_KEY, "https://kubeflow.example/pipeline")
    box.answers = [503, 0]
    with serving(tmp_path) as address:
        monkeypatch.setenv(tracking.URI_KEY, address)
        result = end({"state": "FAILED", "error": {"message": "a\nb"}}, "--webhook", url, "--recipe", "zh")
        assert result.exit_code == 0
        (run,) = runs()
    page = f"{address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    assert [body for _, body in box.came] == [
        {
            "text": "embedmill run nightly ended: FAILED: a b",
            "run": "r1",
            "name": "nightly",
            "state": "FAILED",
            "error": "a b",
            "recipe": "zh",
            "commit": "",
            "links": {"run": "https://kubeflow.example/pipeline/#/runs/details/r1", "mlflow": page},
        }
    ] * 3
    assert {headers["Authorization"] for headers, _ in box.came} == {"Bearer not-a-real-token"}
    assert {headers["Content-Type"] for headers, _ in box.came} == {"application/json"}


@pytest.mark.parametrize(
    ("answers", "said", "times"),
    [
        ([404], "HTTP 404 (not tried again)", 1),
        ([302], "HTTP 302 (not tried again)", 1),  # not followed: the token is for this host
        ([500, 500, 500], "HTTP 500 (after 3 attempts)", 3),
    ],
)
def test_a_webhook_that_fails_is_said_and_fails_nothing(
    receiver: tuple[Receiver, str], answers: list[int], said: str, times: int
) -> None:
    box, url = receiver
    box.answers = answers
    result = end({"state": "SUCCEEDED"}, "--webhook", url)
    assert result.exit_code == 0
    assert result.stderr.splitlines()[1:] == [f"finish: webhook at 127.0.0.1: {said}"]
    assert len(box.came) == times
    assert "secret-part" not in result.stderr
    assert runs()[0].info.status == "FINISHED"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "hook", "http://", "http://[::1", "http://a:b/"])
def test_an_address_that_is_none_is_said(url: str) -> None:
    result = end({"state": "SUCCEEDED"}, "--webhook", url)
    assert (result.exit_code, len(result.stderr.splitlines())) == (0, 2)
    assert result.stderr.splitlines()[1].startswith("finish: webhook")


def test_mlflow_that_is_away_fails_the_step_after_the_webhook_was_told(
    receiver: tuple[Receiver, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    box, url = receiver
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv(tracking.URI_KEY, address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = end({"state": "SUCCEEDED"}, "--webhook", url)
    assert isinstance(result.exception, EmbedmillError)
    assert result.exception.exit_code == InputError.exit_code
    assert str(result.exception) == f"MLflow at {address}: cannot be reached"
    assert [body["state"] for _, body in box.came] == ["SUCCEEDED"]
    assert box.came[0][1]["links"] == {}


@pytest.mark.parametrize(("told", "ended"), [("SUCCEEDED", "FINISHED"), ("FAILED", "FAILED")])
def test_the_task_of_the_pipeline_is_understood_as_kfps_own_runner_fills_it_in(told: str, ended: str) -> None:
    documents = list(yaml.load_all((PROJECT / "pipelines/full.yaml").read_text(), Loader=yaml.CSafeLoader))
    spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
    container = documents[0]["deploymentSpec"]["executors"]["exec-finish"]["container"]
    task = spec.root.dag.tasks["finish"]
    store = io.IOStore()
    for name in ("recipe", "git_sha", "webhook"):
        store.put_parent_input(name, "")
    (chain,) = task.dependent_tasks
    store.put_task_status(chain, told)
    line = placeholder_utils.replace_placeholders(
        full_command=[*container["command"], *container["args"]],
        executor_input_dict={
            "inputs": {"parameterValues": OrchestratorUtils.make_task_arguments(task.inputs, store)},
            "outputs": {"outputFile": "executor_output.json"},
        },
        pipeline_resource_name="embedmill-1",
        task_resource_name="finish-1",
        pipeline_root="root",
        unique_pipeline_id="unique",
    )
    assert line[:2] == ["embedmill", "finish"]
    assert CliRunner().invoke(finish, line[2:]).exit_code == 0
    (run,) = runs()
    assert (run.info.status, run.info.run_name, run.data.tags["kfp.run_id"]) == (ended, "embedmill-1", "unique")
