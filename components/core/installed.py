"""Installed Python packages as files: found by name, listed in order, never imported."""

from __future__ import annotations

import os
import platform
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

STDLIB = "stdlib"
# Tests, copies of other projects, and programs that come with the interpreter but are no library.
LEFT_OUT = frozenset(
    [
        "test",
        "tests",
        "_vendor",
        "vendor",
        "vendored",
        "_vendored_packages",
        "externals",
        "extern",
        "third_party",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "idlelib",
        "lib2to3",
        "turtledemo",
    ]
)
_MODULE = re.compile(r"^([A-Za-z_]\w*)(?:/[^,\n]*)?\.py,", re.MULTILINE)


class Module(NamedTuple):
    """A source file by its module's name; its path is root/relative."""

    name: str
    root: str
    relative: str

    @property
    def path(self) -> Path:
        """Where the file is on this machine."""
        return Path(self.root, self.relative)


@dataclass(frozen=True)
class InstalledPackage:
    """A package and what it was installed from, as `name version`, sorted."""

    name: str
    version: str
    modules: tuple[Module, ...]


def find_package(name: str) -> InstalledPackage | None:
    """A package by its import name or its distribution's name, or `stdlib`; None if it has no source file here."""
    if name == STDLIB:
        root = sysconfig.get_path("stdlib")
        modules = _modules(Path(root), sorted(entry.name for entry in Path(root).iterdir()))
        return InstalledPackage(name, f"Python {platform.python_version()}", modules)
    imports = _imports()
    tops = [name] if name in imports else _imports_of(name)
    modules = tuple(
        module for root in _roots() for module in _modules(root, [f"{top}{end}" for top in tops for end in ("", ".py")])
    )
    owners = sorted({owner for top in tops for owner in imports[top]})
    return InstalledPackage(name, ", ".join(owners), modules) if modules else None


def _roots() -> list[Path]:
    return [Path(root) for root in dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))]


@lru_cache(maxsize=1)
def _imports() -> dict[str, list[str]]:
    """Import name → the distributions, as `name version`, that install files below it (several below a namespace)."""
    found: dict[str, list[str]] = {}
    for distribution in metadata.distributions(path=[str(root) for root in _roots()]):
        record = distribution.read_text("RECORD") or ""
        for top in set(_MODULE.findall(record)):
            found.setdefault(top, []).append(f"{distribution.name} {distribution.version}")
    return found


def _imports_of(distribution: str) -> list[str]:
    wanted = _canonical(distribution)
    return sorted(
        top for top, owners in _imports().items() if any(_canonical(each.split()[0]) == wanted for each in owners)
    )


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _modules(root: Path, names: list[str]) -> tuple[Module, ...]:
    """Modules of the named files and folders of `root`, sorted; a package hides a module of the same name."""
    found: dict[str, Module] = {}
    for relative in sorted(path for name in names for path in _source_files(root, name)):
        parts = relative.removesuffix(".py").removesuffix("/__init__").split("/")
        if all(part.isidentifier() for part in parts) and not parts[0].startswith("_"):
            found[".".join(parts)] = Module(".".join(parts), str(root), relative)
    return tuple(found[name] for name in sorted(found))


def _source_files(root: Path, name: str) -> Iterator[str]:
    if (root / name).is_file():
        if _is_source(name):
            yield name
        return
    if name in LEFT_OUT:
        return
    for folder, folders, files in os.walk(root / name):
        folders[:] = [each for each in folders if each not in LEFT_OUT]
        below = Path(folder).relative_to(root).as_posix()
        yield from (f"{below}/{file}" for file in files if _is_source(file))


def _is_source(file: str) -> bool:
    return (
        file.endswith(".py")
        and not file.startswith("test_")
        and not file.endswith("_test.py")
        and file != "conftest.py"
    )
