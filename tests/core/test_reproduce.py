from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from components.core.reproduce import FAILURE, ChainFailed, reproduce, use_git

FAILS = """
import pathlib, sys
if sys.argv[1:] == ["step"]:
    pathlib.Path(".embedmill/failed").write_text("3")
sys.exit(1)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    FAILURE.parent.mkdir()
    return tmp_path


def test_the_exit_code_is_that_of_the_step_and_never_an_old_one(folder: Path) -> None:
    command = (sys.executable, "-c", FAILS)
    with pytest.raises(ChainFailed) as failed:
        reproduce(["step"], command)
    assert failed.value.exit_code == 3
    with pytest.raises(ChainFailed) as failed:
        reproduce(["dvc itself"], command)
    assert failed.value.exit_code == 1
    reproduce(command=(sys.executable, "-c", "pass"))


def test_dvc_is_told_whether_there_is_git(folder: Path) -> None:
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    local = folder / ".dvc/config.local"
    use_git(folder)
    assert "no_scm = true" in local.read_text().lower()
    use_git(folder)
    subprocess.run(["git", "init", "-q"], check=True)
    use_git(folder)
    assert "no_scm" not in local.read_text()
