from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components import chain
from components.core import settings
from tests.conftest import PROJECT, Embedmill
from tests.fixtures.small_corpus import records, write_dataset

# The model that each published system starts from.
PUBLISHED = {
    "bge": "BAAI/bge-base-en-v1.5",
    "piccolo2": "BAAI/bge-large-zh-v1.5",
    "conan": "hfl/chinese-roberta-wwm-ext-large",
    "static-en": None,
}
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
            merged = isinstance(value, dict) and isinstance(default[name][key], dict)
            expected = {**default[name][key], **value} if merged else value
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


@pytest.mark.parametrize(("recipe", "model"), sorted(PUBLISHED.items()))
def test_a_published_recipe_is_forecast_as_far_as_its_weights_are_here(
    recipe: str, model: str | None, embedmill: Embedmill, tmp_path: Path
) -> None:
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    assert embedmill("recipe", PROJECT / f"recipes/{recipe}.yaml").returncode == 0
    write_dataset(tmp_path / "data/score", records())
    done = embedmill("pretrain", "--dry-run", "--set", "pretrain.dev=null", env={"HF_HUB_OFFLINE": "1"})
    assert "records: 120 cls_contrast, 120 cosent, 120 retri_contrast" in done.stdout
    if model is None:
        assert (done.returncode, done.stderr) == (0, "")
        assert "time on this machine" in done.stdout
        return
    line = f"model {model!r}: no such folder, and the hub cannot be reached to look there"
    assert (done.returncode, done.stderr) == (2, f"embedmill: {line}\n")


def test_known_sections_include_those_of_commands() -> None:
    assert {"run", "flywheel", *("ingest", "filter", "score", "evaluate")} <= set(chain.sections())
