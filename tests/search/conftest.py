"""Fixtures of the tests of `search`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.register.tiny_run import passage_rows, project, template_project, write_dataset, write_model

__all__ = ["corpus", "project", "template_project"]

EXTRA = {"task": "retri_contrast", "text": "csv table", "text_pos": "Read a table.\n\nFrom a file.", "source": "web"}


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, scored data and held-out data in the working folder, without MLflow."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "models/export")
    write_dataset(tmp_path / "data/score", passage_rows())
    write_dataset(tmp_path / "data/heldout", [{**EXTRA, "url": "https://example.org"}, passage_rows()[0]])
    return tmp_path
