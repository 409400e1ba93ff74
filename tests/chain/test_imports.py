"""Which part may import which: command → step → training → core; and no module needs more than the base install."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import chain, cli

ROOT = Path(__file__).parents[2]
ROOMS = sorted(path.name for path in (ROOT / "components").iterdir() if (path / "__init__.py").is_file())
COMMANDS = {place.split(".")[1] for place in cli.AROUND.values()}
SHARED = {"core", "training"}
# Import names of packages that are called otherwise.
IMPORT_NAMES = {"pyyaml": "yaml"}


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


def allowed(room: str) -> set[str]:
    """The rooms that a room may import, `chain` being the list of steps."""
    if room in SHARED:
        return {"core", room}
    if room in chain.ORDER:
        return {*SHARED, room}
    return {*SHARED, *COMMANDS, *chain.ORDER, "chain"}


def test_every_room_is_a_step_a_command_or_shared() -> None:
    assert set(ROOMS) == {*chain.ORDER, *COMMANDS, *SHARED}


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
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", requirement) for requirement in project["dependencies"]]
    base = {IMPORT_NAMES.get(found[0], found[0].replace("-", "_")) for found in names if found}
    needed = {(path, name.split(".")[0]) for path, tree in parsed(room) for name in imported(tree, lazily=False)}
    assert not [(path, name) for path, name in needed if name not in {*base, *sys.stdlib_module_names, "components"}]
