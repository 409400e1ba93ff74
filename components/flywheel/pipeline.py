"""A compiled pipeline, as it is submitted: its spec, and what it takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from components.core import recipes
from components.core.errors import UsageError
from components.core.kubeflow import Parameter

SPEC, PLATFORM = "pipeline_spec", "platform_spec"


def read_package(name: str) -> dict[str, Any]:
    """The two documents that the compiler writes into a file; it is looked for here and among the code's own.

    Raises UsageError if it is no compiled pipeline.
    """
    path = next((path for path in (Path(name), recipes.home() / name) if path.is_file()), None)
    if path is None:
        raise UsageError(f"{name}: no such file; name a compiled pipeline, such as pipelines/full.yaml")
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: no compiled pipeline ({type(error).__name__})") from None
    found = {(PLATFORM if "platforms" in each else SPEC): each for each in documents if isinstance(each, dict)}
    if "root" not in found.get(SPEC, {}):
        raise UsageError(f"{path}: no compiled pipeline (no key root)")
    return found


def parameter_types(package: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that a pipeline takes, with their types as the compiler calls them."""
    definitions = package[SPEC]["root"].get("inputDefinitions", {}).get("parameters", {})
    return {name: definition["parameterType"] for name, definition in definitions.items()}


def parse_parameters(types: Mapping[str, str], assignments: Iterable[str]) -> dict[str, Parameter]:
    """Values of `NAME=VALUE`, as the pipeline wants them. Raises UsageError naming what is wrong."""
    values: dict[str, Parameter] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or name not in types:
            raise UsageError(
                f"--param {assignment}: expected NAME=VALUE; the pipeline takes {', '.join(sorted(types))}"
            )
        try:
            values[name] = text if types[name] == "STRING" else json.loads(text)
        except ValueError:
            raise UsageError(f"--param {assignment}: {text!r} is not JSON of type {types[name]}") from None
    return values
