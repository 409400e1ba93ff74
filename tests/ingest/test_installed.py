"""The sources of packages that an image does not install: the archive gives the records of the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.core.manifest import Dataset

PROJECT = Path(__file__).resolve().parents[2]
# a module of one file, a name unlike its distribution's, several distributions below one name
PACKAGES = ["attr", "click", "google", "six", "threadpoolctl"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    entry = {"uri": "pydoc:", "packages": PACKAGES, "lang": "en", "structure_rows": 100, "class_rows": 100}
    suite = [{"name": "own", "type": "heldout", "source": "pydoc.summary"}]
    parameters = {"ingest": {"sources": [entry]}, "evaluate": {"suite": suite}}
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    return folder


def run(folder: Path, *command: str, archive: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(PROJECT), **({"EMBEDMILL_PYDOC": archive} if archive else {})}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def written(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}


def test_an_archive_gives_the_list_and_the_records_of_the_environment(project: Path) -> None:
    made = run(project, str(PROJECT / "docker/corpus.py"), "params.yaml", "sources.zip")
    assert made.returncode == 0, made.stdout
    for folder, archive in (("environment", None), ("archive", str(project / "sources.zip"))):
        ports = ("--output", f"{folder}/sources.json", "--suite", f"{folder}/suite.json")
        listed = run(project, "-m", "components", "sources", *ports, archive=archive)
        assert listed.returncode == 0, listed.stdout
        ports = ("--sources", f"{folder}/sources.json", "--output", f"{folder}/ingest")
        ingested = run(project, "-m", "components", "ingest", *ports, "--heldout", f"{folder}/heldout", archive=archive)
        assert ingested.returncode == 0, ingested.stdout
    assert (project / "environment/sources.json").read_bytes() == (project / "archive/sources.json").read_bytes()
    assert written(project / "environment") == written(project / "archive")
    assert Dataset.open(str(project / "archive/ingest")).rows > 500


def test_the_archive_is_what_is_read(project: Path) -> None:
    made = run(project, str(PROJECT / "docker/corpus.py"), "params.yaml", "read.zip")
    assert made.returncode == 0, made.stdout
    code = (
        "from components.core.installed import find_package; "
        "print(*{name: {m.root for m in find_package(name).modules} for name in ('click', 'google', 'yaml')}.values())"
    )
    click, google, other = run(project, "-c", code, archive=str(project / "read.zip")).stdout.split()
    assert click == google == f"{{'{project / 'read.zip'}'}}"
    assert other != click


def test_an_archive_that_is_none_is_one_clear_line(project: Path) -> None:
    (project / "text.zip").write_text("no zip")
    for archive in ("text.zip", "missing.zip"):
        result = run(project, "-m", "components", "sources", archive=archive)
        assert result.returncode == 3
        assert result.stdout.startswith(f"embedmill: EMBEDMILL_PYDOC: {archive} is no zip file that can be read (")
        assert result.stdout.count("\n") == 1


def test_bytes_of_the_archive_do_not_change(project: Path) -> None:
    for name in ("one.zip", "two.zip"):
        assert run(project, str(PROJECT / "docker/corpus.py"), "params.yaml", name).returncode == 0
    assert (project / "one.zip").read_bytes() == (project / "two.zip").read_bytes()
