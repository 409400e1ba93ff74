from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chain import NO_CONTAMINATION, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    source = {"uri": "rows.jsonl", "task": "retri_contrast", "lang": "en"}
    rules = {"languages": ["en"], "contamination": NO_CONTAMINATION}
    project = Project(tmp_path / "project", {"ingest": {"sources": [source]}, "filter": rules})
    line = '{"text": "How do I read a file?", "text_pos": "Open it and call read, then close it again."}\n'
    (project.folder / "rows.jsonl").write_text(line + line.replace("file", "table") + line)
    return project


def test_steps_run_in_this_process(project: Project) -> None:
    before = Path.cwd()
    assert all(project.run(step) > 0 for step in ("sources", "ingest", "filter"))
    assert project.dataset("filter").rows == 2
    assert project.rerun("filter") > 0
    assert Path.cwd() == before


def test_commands_are_measured_with_their_memory(project: Project) -> None:
    project.command("sources")
    cost = project.command("ingest")
    assert project.dataset("ingest").rows == 3
    assert cost.cpu > 0
    assert cost.wall > 0
    assert cost.memory >= cost.main_memory > 10 * 2**20  # no Python with Arrow is smaller


def test_a_failed_command_shows_its_message(project: Project) -> None:
    with pytest.raises(SystemExit, match="misspelt"):
        project.command("ingest", "--set", "ingest.misspelt=1")
