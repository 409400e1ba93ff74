from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components import chain
from components.core import settings
from tests.conftest import PROJECT, Embedmill

RECIPES = sorted((PROJECT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_lies_over_the_parameters_and_keeps_their_comments(
    recipe: Path, embedmill: Embedmill, tmp_path: Path
) -> None:
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    before = (tmp_path / "params.yaml").read_text()
    done = embedmill("recipe", recipe)
    assert done.returncode == 0, done.stderr
    after = settings.read_params(tmp_path / "params.yaml")
    default = settings.read_params(PROJECT / "params.yaml")
    for name, section in settings.read_params(recipe).items():
        for key, value in section.items():
            expected = {**default[name][key], **value} if isinstance(value, dict) else value
            assert after[name][key] == expected, f"{name}.{key}"
            assert f"{name}.{key}" in done.stdout
    text = (tmp_path / "params.yaml").read_text()
    assert text.count("#") > before.count("#") * 0.8
    assert embedmill("recipe", recipe).stdout == "params.yaml: nothing to change\n"


def test_a_recipe_with_a_wrong_key_changes_nothing(embedmill: Embedmill, tmp_path: Path) -> None:
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    before = (tmp_path / "params.yaml").read_bytes()
    for text, message in (
        ("filter: {language: [zh]}", "overlay.yaml: filter.language: unknown key; did you mean languages?"),
        ("filtr: {}", "overlay.yaml: filtr: unknown section; did you mean filter?"),
    ):
        (tmp_path / "overlay.yaml").write_text(text)
        done = embedmill("recipe", "overlay.yaml")
        assert (done.returncode, done.stderr) == (2, f"embedmill: {message}\n")
        assert (tmp_path / "params.yaml").read_bytes() == before


def test_known_sections_include_those_of_commands() -> None:
    assert {"run", "flywheel", *("ingest", "filter", "score", "evaluate")} <= set(chain.sections())
