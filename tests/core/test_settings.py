from __future__ import annotations

from pathlib import Path

import pytest

from components.core.errors import UsageError
from components.core.settings import Section, check_sections, override, parse_section, read_params


class Inner(Section):
    uri: str
    weight: float = 1.0


class Outer(Section):
    min_characters: int = 3
    sources: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"min_character": 3}, "p.yaml: outer.min_character: unknown key; did you mean min_characters?"),
        ({"zzz": 3}, "p.yaml: outer.zzz: unknown key; allowed: min_characters, sources"),
        ({"min_characters": "many"}, "p.yaml: outer.min_characters: should be a valid integer"),
        ({"sources": [{"uri": "a"}, {"url": "b"}]}, "p.yaml: outer.sources.1.uri: field required"),
        ({"sources": [{"uri": "a", "wait": 1}]}, "p.yaml: outer.sources.0.wait: unknown key; did you mean weight?"),
        (["a"], "p.yaml: outer: should be a mapping of keys, found"),
        ({"sources": ["a.jsonl"]}, "p.yaml: outer.sources.0: should be a mapping of keys, found 'a.jsonl'"),
    ],
)
def test_a_wrong_value_is_one_line_with_file_key_and_remedy(value: object, message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_section("outer", Outer, value, "p.yaml")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_sections_are_immutable_and_defaults_fill_in() -> None:
    section = parse_section("outer", Outer, None, "p.yaml")
    assert section.min_characters == 3
    with pytest.raises(ValueError, match="frozen"):
        section.min_characters = 4


def test_an_unknown_section_is_caught() -> None:
    with pytest.raises(UsageError, match=r"p\.yaml: filtr: unknown section; did you mean filter\?"):
        check_sections({"filtr": {}}, ["ingest", "filter"], "p.yaml")


def test_overrides_change_one_key_and_leave_the_rest() -> None:
    params = {"filter": {"deep": {"a": 1, "b": 2}, "c": [1]}}
    changed = override(params, ["filter.deep.a=5", "filter.c=[2, 3]", "run.seed=7"])
    assert changed == {"filter": {"deep": {"a": 5, "b": 2}, "c": [2, 3]}, "run": {"seed": 7}}
    assert params == {"filter": {"deep": {"a": 1, "b": 2}, "c": [1]}}
    with pytest.raises(UsageError, match=r"expected section\.key=value"):
        override(params, ["filter"])


def test_an_unreadable_parameter_file_says_where(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(UsageError, match="no such file"):
        read_params(path)
    path.write_text("filter:\n  a: [1\n  b: 2\n")
    with pytest.raises(UsageError, match="line 3: not valid YAML"):
        read_params(path)
    path.write_text("- 1\n")
    with pytest.raises(UsageError, match="expected sections"):
        read_params(path)
