"""Recipes: overlays of params.yaml that lie between its defaults and what a person sets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.errors import UsageError
from components.core.settings import read_params

# The folder with params.yaml, recipes/ and pipelines/ that belongs to this code: in an image it is not the work folder.
HOME_KEY = "EMBEDMILL_HOME"


def home() -> Path:
    """The folder with params.yaml, recipes and pipelines: EMBEDMILL_HOME, else the work folder."""
    return Path(os.environ.get(HOME_KEY) or ".")


def find(name: str) -> Path:
    """The file of a recipe, by path or by the name that it has in recipes/. Raises UsageError if there is none."""
    folder = home() / "recipes"
    for path in (Path(name), folder / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
    raise UsageError(f"recipe {name}: no such recipe; there are: {known}")


def lay_recipe(name: str, sections: Mapping[str, Any]) -> dict[str, Any]:
    """`sections` with a recipe under what they change of the defaults; without a name, as they are."""
    if not name:
        return dict(sections)
    return lay(read_params(home() / "params.yaml"), read_params(find(name)), sections)


def lay(defaults: Mapping[str, Any], overlay: Mapping[str, Any], sections: Mapping[str, Any]) -> dict[str, Any]:
    """The given sections as defaults, then the overlay, then what a section changes of the defaults.

    So a key that somebody set wins over the recipe; one that was set to its default is not seen to be set. Mappings are
    laid key by key, lists are replaced whole.
    """
    result = {}
    for name, section in sections.items():
        before = defaults.get(name) or {}
        laid = merge(before, overlay.get(name) or {})
        result[name] = merge(laid, difference(section or {}, before))
    return result


def merge(under: Any, over: Any) -> Any:
    """`over` on top of `under`: mappings by key, all else replaced."""
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    return {**under, **{key: merge(under[key], value) if key in under else value for key, value in over.items()}}


def difference(value: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """What of a mapping is not in `before`, or is another value there."""
    changed: dict[str, Any] = {}
    for key, new in value.items():
        old = before.get(key)
        if key not in before or (new != old and not (isinstance(new, Mapping) and isinstance(old, Mapping))):
            changed[key] = new
        elif isinstance(new, Mapping) and isinstance(old, Mapping) and (inner := difference(new, old)):
            changed[key] = inner
    return changed
