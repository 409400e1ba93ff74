"""`embedmill recipe`: lay a recipe, an overlay of params.yaml, over the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import click

from components import chain
from components.core import settings, storage
from components.core.command import GIVEN


@click.command(short_help="Lay a recipe over params.yaml; comments stay.")
@click.argument("overlay", type=click.Path(dir_okay=False))
@click.option("--params", "params_path", default="params.yaml", show_default=True, help="Parameter file to change.")
def recipe(overlay: str, params_path: str) -> None:
    """Lay OVERLAY, a file of sections such as recipes/zh.yaml, over params.yaml. Comments stay where their keys do."""
    wanted = settings.read_params(overlay)
    settings.check_sections(wanted, list(chain.sections()), overlay)
    changed = _edit(params_path, wanted, overlay)
    click.echo(f"{params_path}: {', '.join(changed) if changed else 'nothing to change'}")


def replace_sections(params_path: str, sections: Mapping[str, Any]) -> None:
    """Make `sections` those of a parameter file, to the last key; comments stay where their keys do.

    Raises UsageError for a section or key that is none.
    """
    settings.check_sections(sections, list(chain.sections()), GIVEN)
    _edit(params_path, sections, GIVEN, whole=True)


def _edit(params_path: str, wanted: Mapping[str, Any], origin: str, whole: bool = False) -> list[str]:
    """Lay `wanted` over a parameter file, or make it its sections' `whole` content; returns the changed keys."""
    from ruamel.yaml import YAML

    settings.read_params(params_path)
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 120
    editor.representer.add_representer(float, _represent_float)
    params = editor.load(Path(params_path).read_text(encoding="utf-8"))
    changed: list[str] = []
    for name in wanted if whole else ():
        _prune(params.get(name), wanted[name], f"{name}.", changed)
    _merge(params, wanted, "", changed)
    for name, model in chain.sections().items():
        settings.parse_section(name, model, params.get(name), origin)
    text = StringIO()
    editor.dump(params, text)
    storage.write_bytes(params_path, text.getvalue().encode())
    return changed


def _represent_float(representer: Any, value: float) -> Any:
    """A number that YAML 1.1 reads as one: 1e-05 would come back as a string."""
    text = repr(value)
    return representer.represent_scalar("tag:yaml.org,2002:float", text if "." in text else text.replace("e", ".0e"))


def _prune(target: Any, wanted: Any, path: str, changed: list[str]) -> None:
    """Remove the keys of a mapping that are not in `wanted`."""
    if not isinstance(target, dict) or not isinstance(wanted, Mapping):
        return
    for key in list(target):
        if key in wanted:
            _prune(target[key], wanted[key], f"{path}{key}.", changed)
        else:
            del target[key]
            changed.append(f"{path}{key}")


def _merge(target: Any, overlay: Mapping[str, Any], path: str, changed: list[str]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value, f"{path}{key}.", changed)
        elif target.get(key) != value:
            target[key] = value
            changed.append(f"{path}{key}")
