"""Parameters: typed sections of params.yaml, checked at the border so that the middle of the code can trust them."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.core.errors import UsageError

_TAG = re.compile(r"[A-Z]|\[key\]$|constrained-")


class Section(BaseModel):
    """Base of every section and of the objects inside one: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class CostParams(Section):
    """What `--dry-run` reckons with."""

    gpu: str = Field(default="H100", description="Name of the GPU.")
    gpus: int = Field(default=1, ge=1, description="How many train together.")
    mfu: float = Field(default=0.4, gt=0, le=1, description="Share of the GPU's peak that training reaches.")
    price: float = Field(default=2.5, ge=0, description="Price of a GPU-hour, in any currency.")


class RunParams(Section):
    """How to run: shared by every step."""

    seed: int = Field(42, ge=0, description="Seed of every random choice.")
    threads: int = Field(
        2, ge=1, description="Threads of the numerical libraries, fixed so that a run can be repeated."
    )
    workers: int = Field(0, ge=0, description="Workers of data steps (0: one a core); changes no byte.")
    executor: Literal["loky", "ray"] = Field(
        "loky", description="Where workers run: loky: processes here; ray: a Ray cluster (RAY_ADDRESS, else one here)."
    )
    cost: CostParams = Field(default=CostParams(), description="What --dry-run of a training step reckons with.")


def read_params(path: str | Path) -> dict[str, Any]:
    """The sections of a params.yaml as plain objects. Raises UsageError if it is missing or not a YAML mapping."""
    path = Path(path)
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; run from the project's folder or name it with --params") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: expected sections such as 'ingest:', found {type(value).__name__}")
    return value


def read_sections(sections: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Whole sections given on the command line, as (name, JSON object). Raises UsageError for what is neither."""
    result: dict[str, Any] = {}
    for name, text in sections:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise UsageError(f"--section {name}: not valid JSON ({error})") from None
        if not isinstance(value, dict):
            raise UsageError(f"--section {name}: expected a JSON object, found {type(value).__name__}")
        if name in result:
            raise UsageError(f"--section {name}: given twice")
        result[name] = value
    return result


def override(params: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Apply `section.key=value` assignments (values in YAML) to plain sections; returns new ones."""
    result = {name: dict(section) if isinstance(section, dict) else section for name, section in params.items()}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        section, *path = key.split(".")
        if not equals or not path:
            raise UsageError(f"--set {assignment}: expected section.key=value, such as filter.min_characters=3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(f"--set {assignment}: {text!r} is not a YAML value") from None
        target = result.setdefault(section, {})
        for part in path[:-1]:
            child = target.get(part) if isinstance(target, dict) else None
            target[part] = dict(child) if isinstance(child, dict) else {}
            target = target[part]
        target[path[-1]] = value
    return result


def check_sections(params: Mapping[str, Any], known: Sequence[str], origin: str) -> None:
    """Raise UsageError for a section of params.yaml that no step reads."""
    for name in params:
        if name not in known:
            raise UsageError(f"{origin}: {name}: unknown section; {_suggest(str(name), known)}")


def parse_section(name: str, model: type[Section], value: Any, origin: str) -> Section:
    """Validate one section. Raises UsageError naming file, key, what is wrong and what is allowed."""
    try:
        return model.model_validate({} if value is None else value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # of a number or a mapping, a mapping was meant: what is wrong inside it is worth saying
        first = next(
            (one for one in errors if not (one["type"] == "int_type" and isinstance(one["input"], dict))), errors[0]
        )
        # pydantic puts the tag of a union member between the keys, or that a key is meant: no part of the file
        keys = [part for part in first["loc"] if not (isinstance(part, str) and _TAG.match(part))]
        where = f"{origin}: {'.'.join(str(part) for part in [name, *keys])}"
        if first["type"] == "extra_forbidden":
            allowed = _keys_at(model, keys[:-1])
            raise UsageError(f"{where}: unknown key; {_suggest(str(keys[-1]), allowed)}") from None
        # what contradicts what in a mapping is said by the message; all of it would hide that
        found = "" if first["type"] == "missing" or isinstance(first["input"], dict) else f", found {first['input']!r}"
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("Tuple ")
        message = message.replace("valid tuple", "list").removesuffix(" after validation, not 0")
        if first["type"] == "model_type":  # pydantic would name our class
            message = "should be a mapping of keys"
        raise UsageError(f"{where}: {message[:1].lower()}{message[1:]}{found}") from None


def _suggest(word: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, allowed, n=1)
    return f"did you mean {close[0]}?" if close else f"allowed: {', '.join(allowed)}"


def _keys_at(model: type[BaseModel], path: Sequence[Any]) -> list[str]:
    """Field names of the object found by following `path` (names and list indexes) from `model`."""
    for part in path:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        nested = _models_in(field.annotation) if field is not None else []
        model = nested[0] if nested else model
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
