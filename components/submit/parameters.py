"""The parameters of a run: sections with a recipe and single values laid over them, versions of code and data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from components import chain
from components.core import recipes, settings, storage, tracking
from components.core.errors import InputError, UsageError
from components.core.fingerprint import json_document
from components.core.kubeflow import Parameter
from components.core.labels import format_labels
from components.core.settings import Section
from components.core.sources import IngestParams, data_version, encode_sources
from components.core.suite import EvaluateParams
from components.sources.digests import FileDigests
from components.sources.pipeline import list_sources, list_suite
from components.submit.package import Package

IMAGE, TRAIN_IMAGE, LABELS = "image", "train_image", "labels"
RECIPE, GIT_SHA, DATA_VERSION, FEEDBACK = "recipe", "git_sha", "data_version", "feedback"

Log = Callable[[str], None]


def sections_of_run(params_path: str, recipe: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Every section as a run has it: the recipe under what params.yaml changes of the defaults, then single values.

    Raises UsageError naming file and key for what the project's own checks refuse.
    """
    known = chain.sections()
    given, origin = settings.read_params(params_path), params_path
    settings.check_sections(given, list(known), params_path)
    if recipe:
        path = recipes.find(recipe)
        overlay = settings.read_params(path)
        settings.check_sections(overlay, list(known), str(path))
        given = {name: _laid(known[name], given.get(name) or {}, overlay.get(name) or {}) for name in known}
        origin = f"{params_path} with {path}"
    given = settings.override(given, assignments)
    settings.check_sections(given, list(known), "--set")
    for name, model in known.items():
        parsed = settings.parse_section(name, model, given.get(name), origin)
        if isinstance(parsed, IngestParams):
            _refuse_local([(f"ingest.sources[{n}].uri", each.uri) for n, each in enumerate(parsed.sources)])
            _refuse_local([(f"ingest.sources[{n}].root", each.root or "") for n, each in enumerate(parsed.sources)])
        if isinstance(parsed, EvaluateParams):
            _refuse_local([(f"evaluate.suite[{n}].uri", each.uri or "") for n, each in enumerate(parsed.suite)])
    return {name: given.get(name) or {} for name in known}


def recipe_name(recipe: str, sections: Mapping[str, Any]) -> str:
    """The name under which pods may lay the recipe once more, which must change nothing; empty if it would.

    A file of one's own is not in the images, and pods do not see that a value was set back to its default.
    """
    if not recipe:
        return ""
    path = recipes.find(recipe)
    if path.resolve().parent != (recipes.home() / "recipes").resolve():
        return ""
    known, overlay = chain.sections(), settings.read_params(path)
    again = {name: _laid(model, sections[name], overlay.get(name) or {}) for name, model in known.items()}
    return path.stem if again == dict(sections) else ""


def values_of_run(
    package: Package,
    sections: Mapping[str, Any],
    recipe: str,
    options: Mapping[str, str],
    given: Mapping[str, str],
    log: Log,
) -> dict[str, Parameter]:
    """The parameters of a run, in the pipeline's order: those that are given, and what is known of the others.

    `given` are texts by name, `options` what options of the command say. Raises UsageError for a parameter that the
    pipeline does not declare, or that it needs and nobody gives.
    """
    declared = package.parameters
    package.check_names([*given, *options])
    for name in given:
        if name in sections:
            raise UsageError(f"--param {name}: a section of params.yaml; use --set {name}.KEY=VALUE")
        if name in (IMAGE, TRAIN_IMAGE):
            raise UsageError(f"--param {name}: use --{name.replace('_', '-')}, which changes the containers too")
        if name == LABELS:
            raise UsageError(f"--param {name}: use --label, which labels the tasks' pods too")
    values: dict[str, Parameter] = {name: json.dumps(value, ensure_ascii=False) for name, value in sections.items()}
    values |= {**options, **{name: declared[name].parse(name, text) for name, text in given.items()}}
    _refuse_local([(f"--param {FEEDBACK}", str(values.get(FEEDBACK) or ""))])
    values.setdefault(RECIPE, recipe)
    if GIT_SHA in declared and GIT_SHA not in values:
        state = tracking.git_state()
        values[GIT_SHA] = state.sha or ""
        if state.note:
            log(state.note)
    if DATA_VERSION in declared and DATA_VERSION not in values:
        values[DATA_VERSION] = _version(sections, str(values.get(FEEDBACK, "")), log)
    missing = [
        name for name, each in declared.items() if name not in values and each.default is None and not each.optional
    ]
    if missing:
        raise UsageError(f"{package.path}: needs --param {missing[0]}=VALUE")
    return {name: values[name] for name in declared if name in values}


def labels_of_run(package: Package, labels: Mapping[str, str]) -> dict[str, str]:
    """The parameter by which the labels reach the jobs of a run, if the pipeline starts any."""
    return {LABELS: format_labels(labels)} if labels and LABELS in package.parameters else {}


def _version(sections: Mapping[str, Any], feedback: str, log: Log) -> str:
    """The version of the data as it is now, if all of it can be listed from here; else empty, which takes any."""
    ingest, evaluate = (
        IngestParams.model_validate(sections["ingest"]),
        EvaluateParams.model_validate(sections["evaluate"]),
    )
    if any(each.is_pydoc for each in ingest.sources):  # what is installed in the image is not known here
        return ""
    digests = FileDigests()
    try:
        sources = list_sources(ingest.sources, feedback, digests)
        suite = list_suite(evaluate.suite, digests)
    except InputError as error:
        log(f"the version of the data is not fixed, the run takes what it finds: {error}")
        return ""
    return data_version(encode_sources(sources), json_document(suite))


def _refuse_local(named: Sequence[tuple[str, str]]) -> None:
    for where, uri in named:
        if uri and not uri.startswith("pydoc:") and storage.is_local(uri):
            raise UsageError(
                f"{where}: {uri} is a path of this machine, which the cluster cannot read; use s3:// or hf://"
            )


def _laid(model: type[Section], given: Mapping[str, Any], overlay: Mapping[str, Any]) -> Any:
    """A section as it is given, the overlay over it, and over that what it changes of the declared defaults."""
    try:
        changed = _changed(model.model_validate(given), model(), given)
    except ValidationError:  # said later, with the key
        changed = dict(given)
    return recipes.merge(recipes.merge(given, overlay), changed)


def _changed(now: BaseModel, before: BaseModel, given: Mapping[str, Any]) -> dict[str, Any]:
    """What of a mapping, understood as `now`, means something else than `before`: a value has many spellings."""
    changed = {}
    for key, value in given.items():
        name = next(name for name, each in type(now).model_fields.items() if key in (name, each.alias))
        new, old = getattr(now, name), getattr(before, name)
        if new != old:
            nested = isinstance(new, BaseModel) and type(new) is type(old) and isinstance(value, Mapping)
            changed[key] = _changed(new, old, value) if nested else value
    return changed
