"""The client of Kubeflow Pipelines against a strict fake of its API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core import kubeflow
from components.core.errors import EmbedmillError, InputError, UsageError
from components.core.kubeflow import PipelineRefused, Pipelines, PipelinesError
from tests.conftest import PROJECT
from tests.fixtures.fake_kfp import TOKEN, FakeKfp, fake_kfp

CREATE = "POST /apis/v2beta1/runs"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(kubeflow, "PAUSE_SECONDS", 0.001)
    for name in (
        kubeflow.ENDPOINT_KEY,
        kubeflow.PAGES_KEY,
        kubeflow.TOKEN_KEY,
        kubeflow.TOKEN_FILE_KEY,
        kubeflow.CLUSTER_KEY,
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[tuple[FakeKfp, str]]:
    with fake_kfp() as both:
        yield both


def package() -> dict[str, Any]:
    pipeline, platform = yaml.load_all((PROJECT / "pipelines/full.yaml").read_text(), Loader=yaml.CSafeLoader)
    return {"pipeline_spec": pipeline, "platform_spec": platform}


def test_a_run_is_found_by_its_name_or_made_once(server: tuple[FakeKfp, str]) -> None:
    fake, host = server
    pipelines = Pipelines.connect(host)
    assert pipelines.find_run("batch-1") is None
    first = pipelines.start_run("batch-1", "embedmill", package(), {"nodes": 2, "recipe": "zh"})
    again = pipelines.start_run("batch-1", "embedmill", package(), {})
    assert first.id == again.id
    assert [fake.parameters, len(fake.runs), len(fake.experiments)] == [{"nodes": 2, "recipe": "zh"}, 1, 1]
    assert pipelines.url(first.id) == f"{host}/#/runs/details/{first.id}"
    assert pipelines.start_run("batch-2", "embedmill", package(), {}).id != first.id
    assert len(fake.experiments) == 1


def test_of_several_runs_of_a_name_the_newest_counts_and_archived_ones_do_not(server: tuple[FakeKfp, str]) -> None:
    fake, host = server
    pipelines = Pipelines.connect(host)
    older = pipelines.create_run("same", "embedmill", package(), {})
    newer = pipelines.create_run("same", "embedmill", package(), {})
    for number in range(30):  # more than a page that was not asked for
        other = {"run_id": f"other-{number}", "display_name": "same, not quite", "created_at": "2026-02-01T00:00:00Z"}
        fake.runs[f"other-{number}"] = {**fake.runs[newer.id], **other}
    found = pipelines.find_run("same")
    assert found is not None and found.id == newer.id
    fake.runs[newer.id]["storage_state"] = "ARCHIVED"
    found = pipelines.find_run("same")
    assert found is not None and found.id == older.id


@pytest.mark.parametrize("fault", ["500", "503", "cut", "lost"])
def test_a_failure_that_passes_starts_one_run(server: tuple[FakeKfp, str], fault: str) -> None:
    fake, host = server
    pipelines = Pipelines.connect(host)
    fake.fault(fault, 2, lambda line: line.startswith("GET"))
    fake.fault(fault, 1, lambda line: line == "POST /apis/v2beta1/experiments")
    fake.fault(fault, 1, lambda line: line == CREATE)
    run = pipelines.start_run("batch-1", "embedmill", package(), {})
    assert list(fake.runs) == [run.id]
    assert len(fake.experiments) == 1


def test_a_failure_that_stays_is_one_line(server: tuple[FakeKfp, str]) -> None:
    fake, host = server
    pipelines = Pipelines.connect(host)
    fake.fault("500", 4, lambda line: line == CREATE)
    with pytest.raises(PipelinesError) as raised:
        pipelines.start_run("batch-1", "embedmill", package(), {})
    said = f"{host}: HTTP 500: InternalServerError: the database is away: Internal Server Error"
    assert (str(raised.value), raised.value.status, raised.value.exit_code) == (said, 500, 3)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"node": 1}, "parameter(s) provided are not required by pipeline: node"),
        (
            {"nodes": "1"},
            "input parameter nodes requires type double or integer, "
            "but the parameter value is not of number value type",
        ),
        (
            {"recipe": 1},
            "input parameter recipe requires type string, but the input parameter is not of string value type",
        ),
    ],
)
def test_parameters_that_the_pipeline_does_not_declare_are_a_usage_error(
    server: tuple[FakeKfp, str], parameters: dict[str, kubeflow.Parameter], said: str
) -> None:
    with pytest.raises(PipelineRefused) as raised:
        Pipelines.connect(server[1]).start_run("batch-1", "embedmill", package(), parameters)
    assert str(raised.value) == f"{server[1]}: refused: {said}"
    assert raised.value.exit_code == UsageError.exit_code


def test_a_run_is_of_the_account_that_is_named_if_the_server_lets_it() -> None:
    with fake_kfp(FakeKfp(accounts=("embedmill-train",))) as (fake, host):
        pipelines = Pipelines.connect(host)
        for number, account in enumerate(("", "embedmill-train")):
            pipelines.start_run(f"batch-{number}", "embedmill", package(), {}, account)
        assert [run.get("service_account") for run in fake.runs.values()] == [None, "embedmill-train"]
        with pytest.raises(PipelinesError, match="service account cluster-admin is not allowed"):
            pipelines.start_run("batch-2", "embedmill", package(), {}, "cluster-admin")
        assert len(fake.runs) == 2


def test_a_token_comes_from_the_environment_or_from_a_file_that_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_kfp(FakeKfp(token=TOKEN)) as (_, host):
        with pytest.raises(PipelinesError, match=r"not logged in \(HTTP 401\).*--token-file") as raised:
            Pipelines.connect(host)
        assert raised.value.status == 401 and not raised.value.transient
        monkeypatch.setenv(kubeflow.TOKEN_KEY, TOKEN)
        assert Pipelines.connect(host).find_run("none") is None
        monkeypatch.delenv(kubeflow.TOKEN_KEY)
        file = tmp_path / "token"
        file.write_text(f"{TOKEN}\n")
        for pipelines in (Pipelines.connect(host, token_file=str(file)), in_pod(monkeypatch, file, host)):
            assert pipelines.find_run("none") is None
            file.write_text("renewed")
            with pytest.raises(PipelinesError, match="token is not valid"):
                pipelines.find_run("none")
            file.write_text(TOKEN)
            assert pipelines.find_run("none") is None
    for content in (b" \n", b"two words", b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"token: no token to read \(expected one word of ASCII characters\)"):
            Pipelines.connect(host, token_file=str(file))
    with pytest.raises(InputError, match="absent: no token to read"):
        Pipelines.connect(host, token_file=str(tmp_path / "absent"))


def in_pod(monkeypatch: pytest.MonkeyPatch, file: Path, host: str) -> Pipelines:
    monkeypatch.setattr(kubeflow, "TOKEN_FILE", str(file))
    monkeypatch.setattr(kubeflow, "CLUSTER_ENDPOINT", host)
    monkeypatch.setenv(kubeflow.CLUSTER_KEY, "10.0.0.1")
    return Pipelines.connect()


def test_a_server_for_several_users_wants_a_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_kfp(FakeKfp(namespaces=("team", "other"))) as (fake, host):
        with pytest.raises(UsageError, match="name yours with --namespace"):
            Pipelines.connect(host)
        mine = Pipelines.connect(host, "team")
        run = mine.start_run("batch-1", "embedmill", package(), {})
        assert Pipelines.connect(host, "other").find_run("batch-1") is None
        Pipelines.connect(host, "other").start_run("batch-1", "embedmill", package(), {})
        assert sorted(each["namespace"] for each in fake.experiments.values()) == ["other", "team"]
        with pytest.raises(PipelinesError, match="may not do that in namespace strangers") as raised:
            Pipelines.connect(host, "strangers").find_run("batch-1")
        assert raised.value.status == 403
        context = tmp_path / kubeflow.CONTEXT
        context.parent.mkdir(parents=True)
        context.write_text(json.dumps({"namespace": "team"}))
        found = Pipelines.connect(host).find_run("batch-1")
        assert found is not None and found.id == run.id
        context.unlink()
        monkeypatch.setattr(kubeflow, "NAMESPACE_FILE", str(tmp_path / "namespace"))
        (tmp_path / "namespace").write_text("team")
        found = Pipelines.connect(host).find_run("batch-1")
        assert found is not None and found.id == run.id


def test_no_host_and_hosts_that_are_something_else(
    server: tuple[FakeKfp, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, host = server
    with pytest.raises(UsageError, match="no Kubeflow Pipelines host: give --host or set KF_PIPELINES_ENDPOINT"):
        Pipelines.connect()
    fake.fault("page")
    with pytest.raises(PipelinesError, match="no Kubeflow Pipelines API there"):
        Pipelines.connect(host)
    fake.fault("login")
    with pytest.raises(PipelinesError, match=r"not logged in \(HTTP 302\)"):
        Pipelines.connect(host)
    with pytest.raises(PipelinesError, match="HTTP 404: Not Found"):
        Pipelines.connect(f"{host}/elsewhere")
    monkeypatch.setenv(kubeflow.ENDPOINT_KEY, host)
    assert Pipelines.connect().host == host
    monkeypatch.setenv(kubeflow.PAGES_KEY, "https://kubeflow.example/pipeline/")
    assert Pipelines.connect().url("1") == "https://kubeflow.example/pipeline/#/runs/details/1"
    monkeypatch.delenv(kubeflow.ENDPOINT_KEY)


def test_a_host_that_cannot_be_reached_is_one_line() -> None:
    with fake_kfp() as (_, host):
        pass
    with pytest.raises(EmbedmillError, match=rf"^{host}: cannot be reached \(.*Connection refused\)$") as raised:
        Pipelines.connect(host)
    assert raised.value.exit_code == InputError.exit_code


@pytest.mark.parametrize(
    "host", ["http://", "ftp://127.0.0.1:1", "http://127.0.0.1:99999", "localhost:http", "http://a:0"]
)
def test_a_host_that_is_no_address_is_a_usage_error(host: str) -> None:
    with pytest.raises(UsageError, match=rf"^host {host}: expected an address such as http://localhost:8080$"):
        Pipelines.connect(host)


def test_a_run_tells_its_state_and_its_tasks_as_they_started(server: tuple[FakeKfp, str]) -> None:
    fake, host = server
    fake.parents, fake.fails = True, "filter-exact"
    pipelines = Pipelines.connect(host)
    run = pipelines.start_run("batch-1", "embedmill", package(), {})
    assert (run.state, run.tasks, run.ended) == ("PENDING", (), False)
    states = []
    while not run.ended:
        run = pipelines.run(run.id)
        states.append(run.state)
    assert states[:2] == ["PENDING", "RUNNING"] and states[-1] == "FAILED"
    assert run.error == "filter-exact failed"
    names = {task.id: task.name for task in run.tasks}
    (failed,) = [task for task in run.tasks if task.name == "filter-exact"]
    assert (failed.state, failed.error) == ("FAILED", "Error (exit code 3): main")
    assert names[str(failed.parent)] == "for-loop-2"
    assert [task.name for task in run.tasks][:4] == [
        "exit-handler-1-driver",
        "exit-handler-1",
        "sources-driver",
        "sources",
    ]


def test_a_run_that_somebody_ended_or_deleted_is_told(server: tuple[FakeKfp, str]) -> None:
    fake, host = server
    pipelines = Pipelines.connect(host)
    run = pipelines.start_run("batch-1", "embedmill", package(), {})
    fake.runs[run.id]["state"] = "CANCELING"
    ended = pipelines.run(run.id)
    assert (ended.state, ended.ended) == (kubeflow.CANCELED, True)
    del fake.runs[run.id]
    with pytest.raises(PipelinesError, match=r"HTTP 404: Run .* not found") as raised:
        pipelines.run(run.id)
    assert (raised.value.status, raised.value.transient) == (404, False)
