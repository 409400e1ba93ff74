"""A DVC project that a run's outputs are put into, committed to dvc.lock and pushed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

import components
from components import chain
from components.core import recipes, storage
from components.core.errors import InputError, UsageError
from components.core.fingerprint import digest_file
from components.record.tool import run
from components.run.recipe import replace_sections

LOCK, PARAMS, CONFIG = "dvc.lock", "params.yaml", ".dvc/config"
REMOTE = "embedmill"
DVC = (sys.executable, "-m", "dvc")
# What a project needs for dvc.lock to be written, beside .dvc/config.
PARTS = ("dvc.yaml", PARAMS, ".dvcignore")
# Files that are fetched at once.
FETCHES = 8


def copy_home(folder: Path) -> None:
    """A project without git, made of what belongs to this code."""
    home = recipes.home()
    (folder / CONFIG).parent.mkdir(parents=True)
    for part in (*PARTS, CONFIG):
        if (home / part).is_file():
            shutil.copyfile(home / part, folder / part)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(_code(), folder / _code().name, ignore=ignored)
    _dvc(folder, "config", "--local", "core.no_scm", "true")


def check_code(folder: Path, commit: str) -> None:
    """Raise InputError unless the project's code is the one that runs here: dvc.lock would say what is not so."""
    ours, theirs = (_digests(root) for root in (_code(), folder / _code().name))
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    if differing:
        raise InputError(
            f"--commit {commit}: {len(differing)} files of its code differ from those of this image, "
            f"{differing[0]} first; a record of it would be untrue; build the images from that commit"
        )


def fetch_outputs(folder: Path, inputs: Iterable[tuple[str, str]]) -> int:
    """Fetch outputs, named `step.port`, to the paths that they have by default; returns their bytes.

    They go from the store to the disk, several files at once. Raises UsageError for an unknown output, InputError for
    one that is not there.
    """
    defaults = {
        f"{step.name}.{port.name}": port.default for step in chain.steps() for port in step.outputs if port.default
    }
    files: list[tuple[str, Path]] = []
    size = 0
    for name, uri in inputs:
        if name not in defaults:
            raise UsageError(f"--in {name}: no such output; there are {', '.join(defaults)}")
        found = storage.list_files(uri)
        if not found:
            raise InputError(f"--in {name} {uri}: nothing there")
        for info in found:
            files.append((info.uri, folder / defaults[name] / info.uri.removeprefix(uri.rstrip("/")).lstrip("/")))
            size += info.size
    with ThreadPoolExecutor(FETCHES) as pool:
        list(pool.map(_fetch, *zip(*files, strict=True)))
    return size


def write_params(folder: Path, sections: Mapping[str, Any]) -> None:
    """Put the run's sections into params.yaml; comments stay where their keys do."""
    replace_sections(str(folder / PARAMS), sections)


def commit_and_push(folder: Path, remote: str) -> tuple[list[str], list[str]]:
    """Write dvc.lock for the stages whose files are there, push these to `remote`; returns those, and the others."""
    complete = _stages(folder)
    stages = [name for name in complete if complete[name]]
    if not stages:
        raise InputError("no step with all its outputs among --in: nothing to record")
    # the fetched files become the cache's own, so that they take their space once
    _dvc(folder, "config", "--local", "cache.type", "hardlink,copy")
    _dvc(folder, "remote", "add", "--force", "--default", REMOTE, remote)
    _dvc(folder, "commit", "--quiet", "--force", *stages)
    _dvc(folder, "push", "--quiet", "--remote", REMOTE, *stages)
    return stages, [name for name in complete if not complete[name]]


def _stages(folder: Path) -> dict[str, bool]:
    """The project's stages, and whether all that each reads and writes is there."""
    try:
        stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"dvc.yaml: no readable stages ({error})") from None
    return {
        name: all((folder / path).exists() for kind in ("deps", "outs", "metrics") for path in _paths(stage.get(kind)))
        for name, stage in stages.items()
    }


def _paths(entries: Iterable[str | Mapping[str, Any]] | None) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries or ()]


def _fetch(uri: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with storage.open_read(uri) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy, storage.COPY_BYTES)


def _dvc(folder: Path, *arguments: str) -> None:
    # its index of files lies outside of a project otherwise, where a pod cannot write
    env = {"DVC_SITE_CACHE_DIR": str((folder / ".dvc" / "site").resolve()), "DVC_NO_ANALYTICS": "1"}
    run(f"dvc {arguments[0]}", [*DVC, *arguments], folder, env)


def _code() -> Path:
    return Path(components.__path__[0])


def _digests(root: Path) -> dict[str, str]:
    return {path.relative_to(root.parent).as_posix(): digest_file(path) for path in root.rglob("*.py")}
