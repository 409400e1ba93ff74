"""Whatever the pages about the cluster say to type, and every name in them, is there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from components.cli import cli
from tests.conftest import PROJECT
from tests.pipelines.rendered import OPTIONS, OVERLAYS, RAY, ROOT, TARGETS, Resource, find_program, pods, render
from tests.pipelines.test_manifest_commands import parse

PAGES = [ROOT / "README.md", ROOT / "ray" / "README.md"]
PAGES += [PROJECT / "docs" / f"{name}.md" for name in ("cluster", "flywheel", "serving", "submit")]
# What Kubeflow Pipelines brings.
FOREIGN_SERVICES = {"ml-pipeline-ui": 80}


def commands() -> list[list[str]]:
    """Every command line that a page shows, as words: without its comment, its environment and its `&`."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for line in re.findall(r"^ {4,}(\S.*)", text, re.MULTILINE):
            for part in re.split(r" && | & *$| \| ", line):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words and words[0] in ("embedmill", "kubectl", "make", "kind"):
                    found.append(words)
    return found


def of(*beginning: str) -> list[list[str]]:
    """Command lines that begin so, without that."""
    found = [words[len(beginning) :] for words in commands() if words[: len(beginning)] == list(beginning)]
    assert found, beginning
    return found


@pytest.mark.parametrize("words", of("embedmill"), ids=" ".join)
def test_our_own_command_lines(words: list[str]) -> None:
    parse(cli, ["embedmill", *words])


@pytest.mark.parametrize("words", of("kubectl", "create"), ids=lambda words: words[1 + (words[0] == "secret")])
def test_kubectl_makes_what_it_is_told_to_create(words: list[str]) -> None:
    command = [str(find_program("kubectl")), "create", *words, "--dry-run=client", "--output=name"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == f"{words[0]}/{created(words)}\n", done.stderr


def created(words: list[str]) -> str:
    """The name that `kubectl create` is told."""
    return words[1 + (words[0] == "secret")]  # a secret has a type before it


def test_what_is_built_loaded_applied_and_patched_is_there() -> None:
    targets = re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {words[0] for words in of("make")} <= set(targets)
    (loaded,) = of("kind", "load", "docker-image")
    ours = {container["image"] for pod in pods(render("overlays/local")) for container in pod.containers}
    assert set(loaded) >= {image for image in ours if image.startswith("embedmill-")}
    folders = {words[words.index("-k") + 1] for words in of("kubectl", "apply")}
    assert folders <= {f"pipelines/kubernetes/{target}" for target in (*OVERLAYS, *RAY)}
    for kind, name, *options in of("kubectl", "patch"):
        (patched,) = [
            each for each in render("overlays/local") if each["kind"].lower() == kind and name_of(each) == name
        ]
        change = yaml.safe_load(options[options.index("--patch") + 1])
        assert patched["spec"].items() >= {key: not value for key, value in change["spec"].items()}.items()


def test_forwarded_ports_are_those_of_services() -> None:
    services = {
        name_of(each): port["port"]
        for each in render("overlays/local")
        if each["kind"] == "Service"
        for port in each["spec"]["ports"]
    }
    for *_, service, ports in of("kubectl", "port-forward"):
        kind, _, name = service.partition("/")
        assert (kind, int(ports.partition(":")[2])) == ("svc", (services | FOREIGN_SERVICES)[name])


def test_names_and_files_are_those_of_the_manifests() -> None:
    known = {name_of(each) for target in TARGETS for each in render(target)}
    known |= {created(words) for words in of("kubectl", "create")}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert set(re.findall(r"`(embedmill-[a-z0-9-]+)`", text)) <= known, page
        named = re.findall(r"recipe[ =]([a-z][a-z0-9-]*)$", text, re.MULTILINE)
        assert all((PROJECT / "recipes" / f"{name}.yaml").is_file() for name in named), page
    readme = PAGES[0].read_text(encoding="utf-8")
    for path in re.findall(r"`((?:base|overlays|options)/\S+)`", readme):
        assert (ROOT / path).exists(), path
    listed = re.search(r"^ +options/ .*: (.*)$", readme, re.MULTILINE)
    assert listed is not None
    assert re.findall(r"[a-z-]+", re.sub(r"\(.*?\)", "", listed[1])) == [Path(each).name for each in OPTIONS]


def name_of(resource: Resource) -> str:
    """The name of a resource; one that the API names has none."""
    return str(resource["metadata"].get("name"))
