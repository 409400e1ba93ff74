"""Where runs go, which commit they came from, and that a store which cannot be used is one clear line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components.core import tracking
from components.core.errors import InputError


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_recorded_and_a_change_beside_it_is_said(tmp_path: Path) -> None:
    assert "not recorded" in tracking.git_state(tmp_path).note  # no repository
    git(tmp_path, "init")
    assert "not recorded" in tracking.git_state(tmp_path).note  # no commit
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "dvc.lock").write_text("1")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-m", "x")
    clean = tracking.git_state(tmp_path)
    assert clean.note == ""
    assert clean.tags()["git.sha"] == clean.sha
    assert clean.tags()["git.dirty"] == "false"
    (tmp_path / "dvc.lock").write_text("2")  # the chain itself writes it
    assert not tracking.git_state(tmp_path).dirty
    (tmp_path / "code.py").write_text("2")
    (tmp_path / "new.py").write_text("2")
    dirty = tracking.git_state(tmp_path)
    assert dirty.tags()["git.dirty"] == "true"
    assert dirty.note.startswith(f"2 files differ from commit {clean.sha[:12] if clean.sha else ''}")
    (tmp_path / "folder").mkdir()
    assert tracking.git_state(tmp_path / "folder").note == dirty.note


def test_without_git_nothing_is_recorded_and_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    state = tracking.git_state(tmp_path)
    assert state.tags() == {}
    assert state.note == "git is not installed: the commit is not recorded"


def test_a_new_store_is_whole_and_has_no_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = tracking.connect()
    assert tracking.champion(client) is None
    first = tracking.experiment_id(client)
    assert tracking.experiment_id(client) == first
    assert client.get_experiment(first).artifact_location == str(tmp_path / "mlartifacts")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("mlflow")] == ["mlflow.db"]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [("http://user:secret@127.0.0.1:9", "cannot be reached"), ("sqlite:///no.db", "file is not a database")],
)
def test_a_store_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.db").write_bytes(b"not a database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError) as raised:
        tracking.connect()
    message = str(raised.value)
    assert message.startswith("MLflow at ")
    assert reason in message
    assert "\n" not in message
    assert "secret" not in message
