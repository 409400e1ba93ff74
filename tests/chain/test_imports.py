"""Which part may import which: command → step → training → core; what they import from elsewhere is declared."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from components import chain, cli

ROOT = Path(__file__).parents[2]
ROOMS = sorted(path.name for path in (ROOT / "components").iterdir() if (path / "__init__.py").is_file())
COMMANDS = {place.split(".")[1] for place in cli.AROUND.values()}
SHARED = {"core", "training"}
TOOLS = {"launch"}  # what commands share, and steps know nothing of
# Parts of a declared package that have a distribution of their own, and what a person chooses to install.
UNDECLARED = {
    ("components/core/kubeflow.py", "urllib3"),
    ("components/launch/apiserver.py", "urllib3"),
    ("components/core/s3.py", "botocore"),
    ("components/core/tracking.py", "sqlalchemy"),
    ("components/ingest/extraction.py", "trafilatura"),
    ("components/serve/app.py", "starlette"),
}


def imported(tree: ast.AST, lazily: bool = True) -> Iterator[str]:
    """The modules that code imports; without `lazily` those only that importing it imports."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, ast.unparse(node)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif lazily or not (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        ):
            yield from imported(node, lazily)


def parsed(room: str) -> Iterator[tuple[str, ast.AST]]:
    for path in sorted((ROOT / "components" / room).rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def foreign(tree: ast.AST, lazily: bool = True) -> set[str]:
    """The top names of what code imports from other projects."""
    return {name.split(".")[0] for name in imported(tree, lazily)} - {*sys.stdlib_module_names, "components"}


def declared(kind: str) -> set[str]:
    """The distributions that the project, or any of its extras, asks for."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][kind]
    requirements = listed if isinstance(listed, list) else [each for extra in listed.values() for each in extra]
    return {plain(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}


@cache
def installed() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def distributions(name: str) -> set[str]:
    """The installed distributions that bring an import name."""
    return {plain(each) for each in installed().get(name, [name])}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def allowed(room: str) -> set[str]:
    """The rooms that a room may import, `chain` being the list of steps."""
    if room in {*SHARED, *TOOLS}:
        return {"core", room}
    if room in chain.ORDER:
        return {*SHARED, room}
    return {*SHARED, *TOOLS, *COMMANDS, *chain.ORDER, "chain"}


def test_every_room_is_a_step_a_command_or_shared() -> None:
    assert set(ROOMS) == {*chain.ORDER, *COMMANDS, *SHARED, *TOOLS}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    wrong = [
        f"{path}: {name}"
        for path, tree in parsed(room)
        for name in imported(tree)
        if name.startswith("components.") and name.split(".")[1] not in allowed(room)
    ]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_takes_a_private_name_of_another(room: str) -> None:
    taken = [f"{path}: {name}" for path, tree in parsed(room) for name in imported(tree) if "components" in name]
    assert not [name for name in taken if re.search(r"\._(?!_)", name)]


@pytest.mark.parametrize("room", ROOMS)
def test_importing_a_module_needs_the_base_install_only(room: str) -> None:
    needed = {(path, name) for path, tree in parsed(room) for name in foreign(tree, lazily=False)}
    assert not [(path, name) for path, name in needed if not distributions(name) & declared("dependencies")]


@pytest.mark.parametrize("room", ROOMS)
def test_what_is_imported_is_declared(room: str) -> None:
    needed = {(path, name) for path, tree in parsed(room) for name in foreign(tree)} - UNDECLARED
    every = declared("dependencies") | declared("optional-dependencies")
    assert not [(path, name) for path, name in needed if not distributions(name) & every]
