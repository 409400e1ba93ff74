"""`embedmill submit` as a process, against the fake of the API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import chain
from components.core.kubeflow import TOKEN_KEY
from components.core.recipes import HOME_KEY, lay_recipe
from components.core.settings import read_params
from components.submit.package import Package
from components.submit.parameters import labels_of_run
from tests.conftest import PROJECT
from tests.fixtures.fake_kfp import TOKEN, FakeKfp, fake_kfp
from tests.fixtures.seaweed import S3Bucket
from tests.submit.conftest import Server

FULL = "pipelines/full.yaml"
AWAY = "HTTP 500: InternalServerError: the database is away: Internal Server Error"
DATA, TRAIN = "registry.example/data@sha256:" + "a" * 64, "registry.example/train@sha256:" + "b" * 64


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "components.cli", "submit", *arguments],
        env={**os.environ, "PYTHONPATH": str(PROJECT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts() -> None:
    """As at a terminal: a suite in the background of a shell hands on that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def submit(*arguments: str, **environment: str) -> tuple[int, str, list[str]]:
    """The exit code, the output, and the lines of messages."""
    process = start(*arguments, **environment)
    output, messages = process.communicate(timeout=120)
    return process.returncode, output.strip(), messages.splitlines()


def head(folder: Path) -> str:
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


def test_parameters_arrive_typed_and_complete(server: Server, project: Path) -> None:
    fake, host = server
    options = ["--set", "run.seed=7", "--set", "filter.languages=[zh]", "--param", "nodes=2", "--param", "data_cpu=4"]
    code, output, messages = submit(FULL, *options, "--image", DATA, "--train-image", TRAIN, "--experiment", "mine")
    assert (code, messages) == (0, [])
    (run,) = fake.runs.values()
    assert output == f"{host}/#/runs/details/{run['run_id']}"
    assert [each["display_name"] for each in fake.experiments.values()] == ["mine"]
    given, params = fake.parameters, read_params(project / "params.yaml")
    params["run"]["seed"], params["filter"]["languages"] = 7, ["zh"]
    sections = [name for name in params if name not in chain.EXTRA]
    assert {name: json.loads(given.pop(name)) for name in sections} == {name: params[name] for name in sections}
    more = {"nodes": 2, "data_cpu": "4", "recipe": "", "data_version": "", "git_sha": head(project)}
    assert given == {**more, "image": DATA, "train_image": TRAIN}
    assert "service_account" not in run
    assert {each["container"]["image"] for each in fake.executors.values()} == {DATA, TRAIN}
    assert len([each for each in fake.executors.values() if each["container"]["image"] == TRAIN]) > 3


def test_a_run_without_images_keeps_those_of_the_pipeline_whose_bytes_are_as_compiled(server: Server) -> None:
    fake, _ = server
    assert submit(FULL)[0] == 0
    (run,) = fake.runs.values()
    documents = list(yaml.load_all(Path(FULL).read_text(), Loader=yaml.CSafeLoader))
    assert [run["pipeline_spec"]["pipeline_spec"], run["pipeline_spec"]["platform_spec"]] == documents
    assert "image" not in fake.parameters


def test_labels_are_on_the_pods_of_every_task_and_reach_the_jobs_of_the_run(server: Server) -> None:
    fake, _ = server
    assert submit(FULL, "--label", "team=search", "--label", "example.com/cost-center=42")[0] == 0
    assert fake.parameters["labels"] == "example.com/cost-center=42,team=search"
    (run,) = fake.runs.values()
    _, compiled = yaml.load_all(Path(FULL).read_text(), Loader=yaml.CSafeLoader)
    sent = run["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(sent) == {name for name, each in fake.executors.items() if "container" in each}
    for name, config in compiled["platforms"]["kubernetes"]["deploymentSpec"]["executors"].items():
        config["podMetadata"]["labels"] |= {"team": "search", "example.com/cost-center": "42"}
        assert sent[name] == config


def test_labels_of_a_pipeline_that_is_not_ours_are_on_its_pods_alone(project: Path) -> None:
    pipeline, _ = yaml.load_all(Path(FULL).read_text(), Loader=yaml.CSafeLoader)
    del pipeline["root"]["inputDefinitions"]["parameters"]["labels"]
    package = Package("other.yaml", pipeline).with_labels({"team": "search"})
    assert labels_of_run(package, {"team": "search"}) == {}
    configs = package.body()["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {json.dumps(each) for each in configs.values()} == {'{"podMetadata": {"labels": {"team": "search"}}}'}


def test_a_run_is_of_the_account_that_is_named(server: Server) -> None:
    fake, host = server
    fake.accounts = ("embedmill-train",)
    assert submit(FULL, "--service-account", "embedmill-train")[0] == 0
    (run,) = fake.runs.values()
    assert run["service_account"] == "embedmill-train"
    code, _, (message,) = submit(FULL, "--service-account", "somebody")
    assert (code, len(fake.runs)) == (3, 1)
    assert host in message and message.endswith("service account somebody is not allowed")


def as_pods_have_it(fake: FakeKfp, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether pods, which lay the recipe over the defaults of their image, end with the very sections that they got."""
    monkeypatch.setenv(HOME_KEY, str(PROJECT))
    known = [name for name in chain.sections() if name in fake.parameters]
    sent = {name: json.loads(fake.parameters[name]) for name in known}
    return lay_recipe(fake.parameters["recipe"], sent) == sent


def test_a_recipe_lies_under_what_was_set(server: Server, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, _ = server
    params = (project / "params.yaml").read_text().replace("  vocab_size: 16000", "  vocab_size: 9000")
    (project / "params.yaml").write_text(params)
    code, _, messages = submit(FULL, "--recipe", "tiny", "--set", "finetune.retrieval.batch_size=64")
    assert code == 0
    assert messages == [f"submit: 1 file differs from commit {head(project)[:12]}: these changes are not recorded"]
    pretrain, finetune = json.loads(fake.parameters["pretrain"]), json.loads(fake.parameters["finetune"])
    assert (pretrain["vocab_size"], pretrain["matryoshka"]["dims"]) == (9000, [128, 64, 32])
    assert finetune["retrieval"]["batch_size"] == 64
    assert fake.parameters["recipe"] == "tiny"
    assert as_pods_have_it(fake, monkeypatch)


@pytest.mark.parametrize("kind", ["a file", "back to the default"])
def test_a_recipe_that_pods_would_lay_in_another_way_is_only_in_the_sections(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    fake, _ = server
    recipe, options = "tiny", ["--set", "pretrain.vocab_size=16000"]
    if kind == "a file":
        (tmp_path / "mine.yaml").write_text("pretrain: {vocab_size: 16000, min_frequency: 9}\n")
        recipe, options = str(tmp_path / "mine.yaml"), []
    code, _, messages = submit(FULL, "--recipe", recipe, *options)
    assert code == 0
    said = f"submit: recipe {recipe} is in the sections alone: by its name pods would make something else of them"
    assert messages == [said]
    assert fake.parameters["recipe"] == ""
    pretrain = json.loads(fake.parameters["pretrain"])
    assert (pretrain["vocab_size"], pretrain["min_frequency"]) == (16000, 9 if kind == "a file" else 3)
    assert as_pods_have_it(fake, monkeypatch)


def test_the_data_version_is_that_of_the_step_sources(server: Server, s3: S3Bucket, project: Path) -> None:
    from components.core import storage
    from components.core.sources import data_version

    fake, _ = server
    storage.write_bytes(f"{s3.uri}/pairs/a.jsonl", b'{"query": "q", "pos": "p"}\n')
    storage.write_bytes(f"{s3.uri}/dev.jsonl", b'{"text": "a", "text_pair": "b", "label": 1}\n')
    params = read_params("params.yaml")
    params["ingest"]["sources"] = [{"uri": f"{s3.uri}/pairs"}]
    params["evaluate"]["suite"] = [{"name": "dev", "type": "sts", "uri": f"{s3.uri}/dev.jsonl"}]
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    assert submit(FULL)[0] == 0
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-m", "components.cli", "sources"], check=True, env=environment)
    expected = data_version(Path("data/sources.json").read_bytes(), Path("data/suite.json").read_bytes())
    assert fake.parameters["data_version"] == expected
    storage.write_bytes(f"{s3.uri}/pairs/b.jsonl", b'{"query": "q", "pos": "p"}\n')
    assert submit(FULL)[0] == 0
    assert fake.parameters["data_version"] not in ("", expected)
    assert submit(FULL, "--param", "data_version=")[0] == 0
    assert fake.parameters["data_version"] == ""
    storage.remove(f"{s3.uri}/dev.jsonl")
    code, _, messages = submit(FULL)
    assert (code, fake.parameters["data_version"]) == (0, "")
    assert "the version of the data is not fixed" in messages[-1] and "evaluate.suite[0]" in messages[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "filter.language=[en]"], "params.yaml: filter.language: unknown key; did you mean languages?"),
        (["--set", "filters.languages=[en]"], "--set: filters: unknown section; did you mean filter?"),
        (
            ["--set", "ingest.sources=[{uri: faq/*.jsonl}]"],
            "ingest.sources[0].uri: faq/*.jsonl is a path of this machine",
        ),
        (
            ["--set", "evaluate.suite=[{name: a, type: sts, uri: /data/dev.tsv}]"],
            "evaluate.suite[0].uri: /data/dev.tsv is a path of this machine, which the cluster cannot read; use s3://",
        ),
        (["--recipe", "conon"], "recipe conon: no such recipe; there are: bge, conan"),
        (["--param", "node=2"], f"{FULL}: no parameter node; did you mean nodes? allowed: data_cpu, data_memory"),
        (["--param", "nodes=two"], "--param nodes=two: expected a whole number"),
        (["--param", "nodes"], "--param nodes: expected NAME=VALUE"),
        (["--param", "filter={}"], "--param filter: a section of params.yaml; use --set filter.KEY=VALUE"),
        (["--param", "train_image=a"], "--param train_image: use --train-image, which changes the containers too"),
        (["--param", "labels=team=a"], "--param labels: use --label, which labels the tasks' pods too"),
        (["--label", "team=two words"], "label team=two words: the value should be 1 to 63 letters"),
        (["--label", "embedmill.dev/run=a"], "label embedmill.dev/run=a: embedmill.dev/run is kept for the systems"),
        (["--param", "storage_root=out"], "--param storage_root=out: expected s3://bucket/prefix, which every pod can"),
        (["--param", "storage_root="], "--param storage_root=: expected s3://bucket/prefix"),
        (["--param", "shard_groups=65"], "--param shard_groups=65: expected 1 to 64"),
        (["--param", "nodes=-1"], "--param nodes=-1: expected 0 or more"),
        (["--param", "data_memory=lots"], "--param data_memory=lots: expected an amount such as 500m, 2 or 16Gi"),
        (["--param", "node_cpu=0"], "--param node_cpu=0: expected an amount"),
        (["--param", "webhook=chat.example"], "--param webhook=chat.example: expected an address that begins with"),
        (["--host", "localhost:http"], "host localhost:http: expected an address such as http://localhost:8080"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(server: Server, arguments: list[str], said: str) -> None:
    code, output, messages = submit(FULL, *arguments)
    assert (code, output, len(messages)) == (2, "", 1)
    assert messages[0].startswith(f"embedmill: {said}")
    assert not server[0].seen


def test_a_wrong_value_of_a_recipe_is_said_with_its_file(server: Server) -> None:
    Path("mine.yaml").write_text("finetune: {lrr: 1}\n")
    said = ["embedmill: params.yaml with mine.yaml: finetune.lrr: unknown key; did you mean lr?"]
    assert submit(FULL, "--recipe", "mine.yaml")[::2] == (2, said)


@pytest.mark.parametrize("content", ["import kfp\n", "a: 1\n", "a: [", "- 1\n", "\x00"])
def test_a_file_that_is_no_pipeline_is_one_line(server: Server, content: str) -> None:
    Path("other.yaml").write_text(content)
    code, _, messages = submit("other.yaml")
    assert (code, len(messages)) == (2, 1)
    assert messages[0].startswith("embedmill: other.yaml: not a compiled pipeline")
    assert submit("absent.yaml")[2] == ["embedmill: absent.yaml: no such file"]


def test_an_image_by_name_is_warned_of_where_it_comes_from_a_registry(server: Server) -> None:
    assert submit(FULL, "--image", "embedmill-data:0.2.0")[2] == []
    (message,) = submit(FULL, "--image", "registry.example/data:0.2.0")[2]
    assert "registry.example/data:0.2.0 is no digest" in message
    assert server[0].parameters["image"] == "registry.example/data:0.2.0"


def test_a_dry_run_checks_and_sends_nothing(server: Server) -> None:
    code, output, _ = submit(FULL, "--dry-run", "--name", "first", "--image", DATA)
    shown: dict[str, Any] = json.loads(output)
    assert (code, server[0].seen) == (0, [])
    assert (shown["name"], shown["experiment"], shown["parameters"]["image"]) == ("first", "embedmill", DATA)
    assert DATA in shown["images"]
    assert submit(FULL, "--dry-run", "--set", "run.sed=1")[0] == 2


def test_failures_of_the_api_are_one_line_each(project: Path) -> None:
    with fake_kfp(FakeKfp(token=TOKEN, namespaces=("team",))) as (fake, host):
        token = project.parent / "token"
        token.write_text(TOKEN)
        cases: list[tuple[list[str], dict[str, str], int, str]] = [
            ([], {}, 2, "no Kubeflow Pipelines host: give --host or set KF_PIPELINES_ENDPOINT"),
            (["--host", host], {}, 3, f"{host}: not logged in (HTTP 401)"),
            (["--host", host, "--token-file", "none"], {}, 3, "none: no token to read (No such file or directory)"),
            (["--host", host], {TOKEN_KEY: TOKEN}, 2, f"{host} is for several users: name yours with --namespace"),
            (
                ["--host", host, "--token-file", str(token), "--namespace", "theirs"],
                {},
                3,
                f"{host}: this token may not do that in namespace theirs",
            ),
        ]
        for arguments, environment, expected, said in cases:
            code, output, messages = submit(FULL, *arguments, **environment)
            assert (code, output, len(messages)) == (expected, "", 1), messages
            assert messages[0].startswith(f"embedmill: {said}")
        here = [FULL, "--host", host, "--token-file", str(token), "--namespace", "team"]
        for fault, expected, said in (("409", 3, "HTTP 409: Internal Server Error"), ("400", 2, "refused: ")):
            fake.fault(fault, 1, lambda line: line == "POST /apis/v2beta1/runs")
            code, output, messages = submit(*here)
            assert (code, output, len(messages)) == (expected, "", 1), messages
            assert messages[0].startswith(f"embedmill: {host}: {said}")
        fake.fault("500", 4, lambda line: line.startswith("GET /apis/v2beta1/runs"))
        assert submit(*here)[2] == [f"embedmill: {host}: {AWAY}"]
        assert not fake.runs
        fake.fault("lost", 1, lambda line: line == "POST /apis/v2beta1/runs")
        assert submit(*here)[0] == 0
        assert len(fake.runs) == 1
    code, _, messages = submit(FULL, "--host", host)
    assert (code, len(messages)) == (3, 1)
    assert messages[0].startswith(f"embedmill: {host}: cannot be reached (")


def test_waiting_shows_the_tasks_and_ends_with_the_run(server: Server) -> None:
    fake, host = server
    fake.parents, fake.polls = True, 12
    fake.fault("500", 5, lambda line: line.startswith("GET /apis/v2beta1/runs/"))
    code, output, messages = submit(FULL, "--wait", "--interval", "0.1")
    assert code == 0
    assert output == f"{host}/#/runs/details/{next(iter(fake.runs))}"
    assert messages[:2] == [f"submit: {host}: {AWAY}; the run goes on, looking again", "submit: run pending"]
    assert "submit: exit-handler-1/filter running" in messages
    assert "submit: exit-handler-1/pretrain succeeded" in messages
    assert len(messages) == len(set(messages))
    assert messages[-1] == "submit: run succeeded"
    assert not [line for line in messages if "-driver" in line]


def test_a_run_that_fails_says_where(server: Server) -> None:
    fake, _ = server
    fake.parents, fake.fails = True, "filter-exact"
    code, _, messages = submit(FULL, "--wait", "--interval", "0.1", "--name", "mine")
    assert code == 1
    assert messages[-2:] == [
        "submit: filter-exact failed: Error (exit code 3): main",
        "embedmill: run mine failed in filter-exact: filter-exact failed",
    ]
    assert "submit: exit-handler-1/filter failed" in messages


def test_a_run_of_this_name_is_followed_and_not_started_again(server: Server) -> None:
    fake, _ = server
    first = submit(FULL, "--name", "mine")
    again = submit(FULL, "--name", "mine", "--wait", "--interval", "0.1")
    assert (first[1], len(fake.runs)) == (again[1], 1)
    assert again[2][0] == "submit: a run mine is there already (pending); nothing is started"
    assert again[2][-1] == "submit: run succeeded"


def test_a_token_that_ends_while_it_waits_is_said_with_how_to_go_on(server: Server) -> None:
    fake, host = server
    fake.fault("401", 1, lambda line: line.startswith("GET /apis/v2beta1/runs/"))
    code, _, messages = submit(FULL, "--wait", "--name", "mine")
    assert (code, len(messages)) == (3, 1)
    again = f"the run goes on, follow it again: embedmill submit {FULL} --name mine --host {host} --wait"
    assert messages[0].startswith(f"embedmill: {host}: not logged in (HTTP 401)") and messages[0].endswith(again)


def test_an_interrupt_leaves_the_run_alone(server: Server) -> None:
    fake, host = server
    fake.held = True
    process = start(FULL, "--wait", "--interval", "0.1", "--name", "mine")
    assert process.stdout is not None and process.stderr is not None
    url = process.stdout.readline().strip()
    while "running" not in process.stderr.readline():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    messages = process.communicate(timeout=60)[1].splitlines()
    (run,) = fake.runs
    assert (process.returncode, url) == (5, f"{host}/#/runs/details/{run}")
    assert messages[-1] == (
        f"embedmill: the run goes on; follow it again: embedmill submit {FULL} --name mine --host {host} --wait; "
        f"end it on its page, or: curl -X POST {host}/apis/v2beta1/runs/{run}:terminate"
    )
    assert fake.runs[run]["state"] == "RUNNING"
    assert not [line for line in fake.seen if "terminate" in line[1]]
