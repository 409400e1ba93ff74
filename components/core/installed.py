"""Installed Python packages as source files: found by name, listed in order, never imported.

An image does not install every package that a corpus is made from. EMBEDMILL_PYDOC names a zip file of their sources,
laid out as they would be installed (docker/corpus.py writes it); a package that is in there is read from there.
"""

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
from zipfile import BadZipFile, ZipFile

from components.core.errors import InputError

STDLIB = "stdlib"
ARCHIVE = "EMBEDMILL_PYDOC"
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
    """A source file by its module's name: `relative` to `root`, a folder or a zip file."""

    name: str
    root: str
    relative: str

    @property
    def size(self) -> int:
        """Bytes of the file."""
        if _is_archive(self.root):
            return _archive(self.root).getinfo(self.relative).file_size
        return Path(self.root, self.relative).stat().st_size

    def read(self) -> bytes:
        """The source. Raises OSError if it is gone."""
        return read_source(self.root, self.relative)


@dataclass(frozen=True)
class InstalledPackage:
    """A package and what it was installed from, as `name version`, sorted."""

    name: str
    version: str
    modules: tuple[Module, ...]


def find_package(name: str) -> InstalledPackage | None:
    """A package by its import name or its distribution's name, or `stdlib`; None if it has no source file here.

    Raises InputError if EMBEDMILL_PYDOC names something else than a zip file.
    """
    if name == STDLIB:
        root = sysconfig.get_path("stdlib")
        modules = _modules(root, sorted(entry.name for entry in Path(root).iterdir()))
        return InstalledPackage(name, f"Python {platform.python_version()}", modules)
    return next((found for roots in _places() if (found := _find(name, roots))), None)


def read_source(root: str, relative: str) -> bytes:
    """A file below a folder or in a zip file. Raises OSError if there is none."""
    if not _is_archive(root):
        return Path(root, relative).read_bytes()
    try:
        return _archive(root).read(relative)
    except KeyError:
        raise FileNotFoundError(f"{root}: no {relative}") from None


def _places() -> Iterator[tuple[str, ...]]:
    """The roots to look in together, one place after the other: the archive of sources, then the environment."""
    if archive := os.environ.get(ARCHIVE):
        try:
            _archive(archive)
        except (OSError, BadZipFile) as error:
            raise InputError(f"{ARCHIVE}: {archive} is no zip file that can be read ({error})") from error
        yield (archive,)
    yield _roots()


def _find(name: str, roots: tuple[str, ...]) -> InstalledPackage | None:
    imports = _imports(roots)
    tops = [name] if name in imports else _imports_of(name, roots)
    modules = tuple(
        module for root in roots for module in _modules(root, [f"{top}{end}" for top in tops for end in ("", ".py")])
    )
    owners = sorted({owner for top in tops for owner in imports[top]})
    return InstalledPackage(name, ", ".join(owners), modules) if modules else None


def _roots() -> tuple[str, ...]:
    return tuple(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))


def _is_archive(root: str) -> bool:
    return root.endswith(".zip")


@lru_cache(maxsize=1)
def _archive(path: str) -> ZipFile:
    return ZipFile(path)


@lru_cache(maxsize=2)
def _imports(roots: tuple[str, ...]) -> dict[str, list[str]]:
    """Import name → the distributions, as `name version`, that install files below it (several below a namespace)."""
    found: dict[str, list[str]] = {}
    for distribution in metadata.distributions(path=list(roots)):
        record = distribution.read_text("RECORD") or ""
        for top in set(_MODULE.findall(record)):
            found.setdefault(top, []).append(f"{distribution.name} {distribution.version}")
    return found


def _imports_of(distribution: str, roots: tuple[str, ...]) -> list[str]:
    wanted = _canonical(distribution)
    return sorted(
        top for top, owners in _imports(roots).items() if any(_canonical(each.split()[0]) == wanted for each in owners)
    )


def _canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _modules(root: str, names: list[str]) -> tuple[Module, ...]:
    """Modules of the named files and folders of `root`, sorted; a package hides a module of the same name."""
    source_files = _files_of_archive if _is_archive(root) else _files_of_folder
    found: dict[str, Module] = {}
    for relative in sorted(path for name in names for path in source_files(root, name)):
        parts = relative.removesuffix(".py").removesuffix("/__init__").split("/")
        if all(part.isidentifier() for part in parts) and not parts[0].startswith("_"):
            found[".".join(parts)] = Module(".".join(parts), root, relative)
    return tuple(found[name] for name in sorted(found))


def _files_of_archive(root: str, name: str) -> Iterator[str]:
    """An archive holds no other Python files than sources."""
    yield from (
        file
        for file in _archive(root).namelist()
        if file == name or (file.startswith(f"{name}/") and file.endswith(".py"))
    )


def _files_of_folder(root: str, name: str) -> Iterator[str]:
    top = Path(root, name)
    if top.is_file():
        if _is_source(name):
            yield name
        return
    if name in LEFT_OUT:
        return
    for folder, folders, files in os.walk(top):
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
