"""An imagined run to report on, and a browser to look at the page with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.report.evidence import Evidence, read_evidence
from tests.fixtures.chromium import Chromium, find_chromium
from tests.report.evidence_files import write_run


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    """The files of a whole run; tests may overwrite some of them."""
    return write_run(tmp_path / "run")


@pytest.fixture
def evidence(inputs: dict[str, str]) -> Evidence:
    """The same, read."""
    return read_evidence(inputs)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A headless Chromium; required where CI runs."""
    executable = find_chromium()
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("no chromium on the PATH (Debian and Ubuntu: apt-get install chromium)")
        pytest.skip("no chromium on the PATH")
    with Chromium(executable, tmp_path_factory.mktemp("chromium")) as chromium:
        yield chromium
