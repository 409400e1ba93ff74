"""Recipes between defaults and what a person sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.core.errors import UsageError
from components.core.recipes import difference, find, lay, lay_recipe, merge

DEFAULTS = {"a": {"x": 1, "deep": {"p": 1, "q": 2}, "list": [1, 2]}, "b": {"y": 1}}


def test_a_recipe_lies_between_the_defaults_and_what_was_set() -> None:
    overlay = {"a": {"x": 2, "deep": {"p": 9}}}
    assert lay(DEFAULTS, overlay, DEFAULTS) == {"a": {"x": 2, "deep": {"p": 9, "q": 2}, "list": [1, 2]}, "b": {"y": 1}}
    given = {"a": {"x": 3, "deep": {"p": 1, "q": 5}, "list": [7]}}
    assert lay(DEFAULTS, overlay, given) == {"a": {"x": 3, "deep": {"p": 9, "q": 5}, "list": [7]}}


def test_a_section_may_leave_keys_out_and_have_new_ones() -> None:
    assert lay(DEFAULTS, {}, {"a": {"new": {"k": 1}}})["a"]["new"] == {"k": 1}
    assert lay(DEFAULTS, {"c": {"z": 1}}, {"c": {}}) == {"c": {"z": 1}}


def test_mappings_are_laid_by_key_and_lists_replaced() -> None:
    assert merge({"k": {"en": 1, "zh": 2}}, {"k": {"zh": 3}}) == {"k": {"en": 1, "zh": 3}}
    assert merge({"k": [1, 2]}, {"k": [3]}) == {"k": [3]}
    assert merge({"k": None}, {"k": {"a": 1}}) == {"k": {"a": 1}}
    assert difference({"k": None, "l": [1]}, {"k": {"a": 1}, "l": [1]}) == {"k": None}


def test_a_recipe_is_found_by_name_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "two.yaml").write_text("b: {y: 2}\n")
    (tmp_path / "params.yaml").write_text("b: {y: 1, z: 0}\n")
    monkeypatch.setenv("EMBEDMILL_HOME", str(tmp_path))
    assert find("two") == tmp_path / "recipes" / "two.yaml"
    assert lay_recipe("two", {"b": {"y": 1, "z": 0}}) == {"b": {"y": 2, "z": 0}}
    assert lay_recipe("", {"b": {"y": 1}}) == {"b": {"y": 1}}
    with pytest.raises(UsageError, match="there are: two"):
        find("three")
