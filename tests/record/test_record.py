"""A run that was made elsewhere becomes a branch; a fresh clone of it pulls the model and has nothing to do."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from components import chain
from components.core import storage
from tests.e2e.project import Project
from tests.fixtures.git_server import git_server
from tests.fixtures.seaweed import S3Bucket

pytestmark = pytest.mark.e2e

RUN = "3f2c-run.1"
TOKEN = "ghp_secret"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which the chain has run as on a laptop: its dvc.lock is what a record must come to."""
    project = Project(tmp_path_factory.mktemp("made"))
    project.run("embedmill", "run")
    return project


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same code with the defaults, as a repository has it before any run; no author is configured."""
    return Project(tmp_path_factory.mktemp("start"), recipe=None)


class Recording:
    """Everything that `embedmill record` is given, and the repository that it pushes to."""

    def __init__(self, folder: Path, start: Project, made: Project, s3: S3Bucket, url: str) -> None:
        self.folder, self.url = folder, url
        self.root = f"{s3.uri}/team"
        self.commit = start.run("git", "rev-parse", "HEAD").strip()
        self.env = {**start.env, **s3.env, "GIT_TOKEN": TOKEN, "HOME": str(folder), "EMBEDMILL_HOME": str(start.path)}
        sections = yaml.safe_load((start.path / "params.yaml").read_text())
        self.line = ["--root", self.root, "--run", RUN, "--recipe", "tiny"]
        for name in ("run", "ingest", "filter", "evaluate", "score", "pretrain", "finetune", "export", "register"):
            self.line += ["--section", name, json.dumps(sections[name])]
        for step in chain.steps():
            for port in step.outputs:
                if not port.optional:
                    uri = f"{self.root}/{step.name}/0123/{Path(port.default).name}"
                    upload(made.path / port.default, uri)
                    self.line += ["--in", f"{step.name}.{port.name}", uri]

    @property
    def command(self) -> list[str]:
        where = ["--repository", self.url, "--commit", self.commit] if self.url else []
        return ["embedmill", "record", *self.line, *where]

    def run(self, expect: int = 0) -> str:
        result = subprocess.run(self.command, cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert result.returncode == expect, result.stderr
        assert TOKEN not in result.stdout + result.stderr
        return result.stderr

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command, cwd=self.folder, env=self.env, stderr=subprocess.DEVNULL)


def upload(source: Path, uri: str) -> None:
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    for file in files:
        storage.upload(file, storage.join(uri, *file.relative_to(source).parts))


@pytest.fixture
def bare(tmp_path: Path, start: Project) -> Path:
    """A bare repository that takes pushes, holding the start."""
    path = tmp_path / "repositories" / "project.git"
    start.run("git", "clone", "-q", "--bare", str(start.path), str(path))
    start.run("git", "-C", str(path), "config", "http.receivepack", "true")
    return path


@pytest.fixture
def recording(tmp_path: Path, start: Project, made: Project, s3: S3Bucket, bare: Path) -> Iterator[Recording]:
    folder = tmp_path / "pod"
    folder.mkdir()
    with git_server(bare.parent, TOKEN) as address:
        yield Recording(folder, start, made, s3, f"{address}/{bare.name}")


def git(repository: Path, *arguments: str) -> str:
    result = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_a_fresh_clone_pulls_exactly_what_was_made(
    recording: Recording, made: Project, bare: Path, tmp_path: Path
) -> None:
    recording.run()
    branch = f"runs/{RUN}"
    first = git(bare, "rev-parse", branch)
    locked, params = (git(bare, "show", f"{branch}:{name}") for name in ("dvc.lock", "params.yaml"))
    assert locked == (made.path / "dvc.lock").read_text().strip(), "as dvc repro has it"
    assert yaml.safe_load(params) == yaml.safe_load((made.path / "params.yaml").read_text())
    changed = git(bare, "diff-tree", "-r", "--name-only", recording.commit, branch).splitlines()
    assert sorted(changed) == [".dvc/config", "dvc.lock", "params.yaml"]
    assert git(bare, "log", "-1", "--format=%an <%ae>", branch) == "Embedmill <embedmill@localhost>"
    assert git(bare, "rev-list", "--count", f"{recording.commit}..{branch}") == "1"
    assert not [file for file in (tmp_path / "pod").rglob("*") if file.is_file() and TOKEN in file.read_text()]

    assert f"{branch} is {first}, as it was" in recording.run()
    assert git(bare, "rev-parse", branch) == first

    clone = tmp_path / "laptop"
    git(tmp_path, "clone", "-q", "--branch", branch, str(bare), str(clone))
    laptop = Project.__new__(Project)
    laptop.path, laptop.env = clone, {**recording.env, "PYTHONPATH": str(clone)}
    laptop.run("dvc", "pull")
    patterns = ("models/*/*", "data/*/manifest.json", "data/*/shards/*", "reports/*/*")
    assert laptop.digests(*patterns) == made.digests(*patterns)
    status = json.loads(laptop.run("dvc", "status", "--json"))
    assert status == {"sources": ["always changed"]}
    shown = laptop.run("dvc", "repro")
    assert [line for line in shown.splitlines() if line.startswith("Running stage")] == ["Running stage 'sources':"]


def test_killed_anywhere_it_comes_to_the_same_commit(recording: Recording, bare: Path) -> None:
    project = recording.folder / ".embedmill/record" / RUN / "project"
    moments = (
        project / ".git/HEAD",
        project / "models/export/modules.json",
        project / ".dvc/config.local",
        project / "dvc.lock",
    )
    for moment in moments:
        shutil.rmtree(project.parent, ignore_errors=True)
        process = recording.start()
        while not moment.exists():
            assert process.poll() is None, moment
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    recording.run()
    commit = git(bare, "rev-parse", f"runs/{RUN}")
    git(bare, "update-ref", "-d", f"refs/heads/runs/{RUN}")
    recording.run()
    assert git(bare, "rev-parse", f"runs/{RUN}") == commit, "attempts that race make one commit"


def test_without_a_repository_the_lock_lies_in_the_store(recording: Recording, made: Project) -> None:
    recording.url = ""
    at = recording.line.index("report.page")
    del recording.line[at - 1 : at + 2]
    assert "record: report: left out, since their files are not all among --in" in recording.run()
    place = f"{recording.root}/records/{RUN}"
    assert sorted(info.uri for info in storage.list_files(place)) == [f"{place}/dvc.lock", f"{place}/params.yaml"]
    locked, expected = yaml.safe_load(storage.read_bytes(f"{place}/dvc.lock")), made.path / "dvc.lock"
    stages = yaml.safe_load(expected.read_bytes())["stages"]
    del stages["report"]
    assert locked["stages"] == stages


def test_what_cannot_be_recorded_is_said_in_one_line(recording: Recording, start: Project, bare: Path) -> None:
    recording.env["GIT_TOKEN"] = "wrong"
    assert f"embedmill: {recording.url}: clone: fatal: Authentication failed" in recording.run(3)
    recording.env["GIT_TOKEN"] = TOKEN
    commit, recording.commit = recording.commit, "0" * 40
    assert f"{recording.url}: has no commit {'0' * 40}; push it" in recording.run(3)
    recording.commit = ""
    assert "--commit '': expected the commit of the run's code" in recording.run(2)

    work = bare.parent / "work"
    git(bare.parent, "clone", "-q", str(bare), str(work))
    (work / "components/cli.py").write_text("changed\n")
    git(work, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qam", "Change the code")
    git(work, "push", "-q")
    recording.commit = git(work, "rev-parse", "HEAD")
    assert "1 files of its code differ from those of this image, components/cli.py first" in recording.run(3)
    recording.commit = commit
    recording.url = recording.url.replace("://", "://me:secret@")
    told = recording.run(2)
    assert "the URL holds a password; leave it out and put the token into GIT_TOKEN" in told
    assert "secret" not in told
