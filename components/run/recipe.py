"""`embedmill recipe`: lay a recipe, an overlay of params.yaml, over the parameters."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import click

from components import chain
from components.core import settings, storage


@click.command(short_help="Lay a recipe over params.yaml; comments stay.")
@click.argument("overlay", type=click.Path(dir_okay=False))
@click.option("--params", "params_path", default="params.yaml", show_default=True, help="Parameter file to change.")
def recipe(overlay: str, params_path: str) -> None:
    """Lay OVERLAY, a file of sections such as recipes/zh.yaml, over params.yaml. Comments stay where their keys do."""
    from ruamel.yaml import YAML

    known = chain.sections()
    wanted = settings.read_params(overlay)
    settings.check_sections(wanted, list(known), overlay)
    settings.read_params(params_path)
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 120
    editor.representer.add_representer(float, _represent_float)
    params = editor.load(Path(params_path).read_text(encoding="utf-8"))
    changed: list[str] = []
    _merge(params, wanted, "", changed)
    for name, model in known.items():
        settings.parse_section(name, model, params.get(name), overlay)
    text = StringIO()
    editor.dump(params, text)
    storage.write_bytes(params_path, text.getvalue().encode())
    click.echo(f"{params_path}: {', '.join(changed) if changed else 'nothing to change'}")


def _represent_float(representer: Any, value: float) -> Any:
    """A number that YAML 1.1 reads as one: 1e-05 would come back as a string."""
    text = repr(value)
    return representer.represent_scalar("tag:yaml.org,2002:float", text if "." in text else text.replace("e", ".0e"))


def _merge(target: Any, overlay: dict[str, Any], path: str, changed: list[str]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value, f"{path}{key}.", changed)
        elif target.get(key) != value:
            target[key] = value
            changed.append(f"{path}{key}")
