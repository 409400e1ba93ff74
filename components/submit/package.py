"""A compiled pipeline: its parameters with their types and defaults, and the images of its containers."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from components.core import recipes
from components.core.errors import UsageError
from components.core.kubeflow import Parameter

NOT_COMPILED = "not a compiled pipeline (expected YAML with pipelineInfo, deploymentSpec and root, such as"
EXAMPLE = "pipelines/full.yaml)"
# What our pipelines' own parameters may be. Nobody else checks it before a run has worked for hours.
LEAST = {"shard_groups": 1, "nodes": 0, "train_gpus": 0, "gpus_per_node": 0, "attempts": 1}
MOST = {"shard_groups": 64}
_QUANTITY = re.compile(r"(?=.*[1-9])[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i|[MGTPE])?"), "an amount such as 500m, 2 or 16Gi"
_WEB = re.compile(r"(https?://[^\s/]+\S*)?"), "an address that begins with https:// or http://, or nothing"
FORMS = {
    **dict.fromkeys(("data_cpu", "data_memory", "train_cpu", "train_memory", "node_cpu", "node_memory"), _QUANTITY),
    "storage_root": (re.compile(r"s3://[^\s/]+(/\S*)?"), "s3://bucket/prefix, which every pod can write"),
    "webhook": _WEB,
}
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


@dataclass(frozen=True)
class Declared:
    """A parameter of a pipeline: its kind as kfp names it (`STRING`, `NUMBER_INTEGER`, …) and its default."""

    kind: str
    default: Any = None
    optional: bool = False

    def parse(self, name: str, text: str) -> Parameter:
        """A value from the command line. Raises UsageError if it is none of this kind, or none that pods could use."""
        value = self._parse(name, text)
        if name in LEAST and not LEAST[name] <= int(text) <= MOST.get(name, int(text)):
            limit = f" to {MOST[name]}" if name in MOST else " or more"
            raise UsageError(f"--param {name}={text}: expected {LEAST[name]}{limit}")
        if name in FORMS and not FORMS[name][0].fullmatch(text):
            raise UsageError(f"--param {name}={text}: expected {FORMS[name][1]}")
        return value

    def _parse(self, name: str, text: str) -> Parameter:
        try:
            if self.kind == "STRING":
                return text
            if self.kind == "BOOLEAN":
                return {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}[text.lower()]
            if self.kind == "NUMBER_INTEGER":
                return int(text)
            if self.kind == "NUMBER_DOUBLE":
                return float(text)
            value = json.loads(text)
            wanted = list if self.kind == "LIST" else dict
            if not isinstance(value, wanted):
                raise ValueError
            return value
        except (KeyError, ValueError):
            wanted_text = {
                "BOOLEAN": "true or false",
                "NUMBER_INTEGER": "a whole number",
                "NUMBER_DOUBLE": "a number",
                "LIST": "a JSON list",
                "STRUCT": "a JSON object",
            }
            raise UsageError(f"--param {name}={text}: expected {wanted_text[self.kind]}") from None


@dataclass(frozen=True)
class Package:
    """What the compiler wrote to `path`: the pipeline, and what of it is for Kubernetes alone."""

    path: str
    pipeline: dict[str, Any]
    platform: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> Package:
        """Read a compiled pipeline, from the work folder or from where pipelines lie in an image.

        Raises UsageError if there is none.
        """
        found = next((each for each in (Path(path), recipes.home() / path) if each.is_file()), None)
        if found is None:
            raise UsageError(f"{path}: no such file")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            documents = list(yaml.load_all(found.read_text(encoding="utf-8"), Loader=loader))
        except (yaml.YAMLError, UnicodeDecodeError, OSError):
            raise UsageError(f"{path}: {NOT_COMPILED} {EXAMPLE}") from None
        mappings = [each for each in documents if isinstance(each, dict)]
        if len(mappings) != len(documents) or not 1 <= len(mappings) <= 2 or not _is_pipeline(mappings[0]):
            raise UsageError(f"{path}: {NOT_COMPILED} {EXAMPLE}")
        if len(mappings) == 2 and "platforms" not in mappings[1]:
            raise UsageError(f"{path}: the second document is no platform spec (expected platforms)")
        return cls(path, *mappings)

    @property
    def name(self) -> str:
        """The name of the pipeline."""
        return str(self.pipeline["pipelineInfo"]["name"])

    @property
    def parameters(self) -> dict[str, Declared]:
        """The parameters that a run of it takes."""
        listed = self.pipeline["root"].get("inputDefinitions", {}).get("parameters", {})
        return {
            name: Declared(each["parameterType"], each.get("defaultValue"), each.get("isOptional", False))
            for name, each in listed.items()
        }

    def check_names(self, names: Iterable[str]) -> None:
        """Raise UsageError for a parameter that the pipeline does not declare."""
        allowed = sorted(self.parameters)
        for name in names:
            if name not in allowed:
                close = difflib.get_close_matches(name, allowed, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise UsageError(f"{self.path}: no parameter {name}; {hint}allowed: {', '.join(allowed)}")

    def with_images(self, images: Mapping[str, str]) -> Package:
        """The same pipeline with other images: `images` by the parameter whose default is the one to replace."""
        replaced = {self.parameters[name].default: reference for name, reference in images.items()}
        pipeline = deepcopy(self.pipeline)
        for executor in pipeline["deploymentSpec"]["executors"].values():
            container = executor.get("container", {})
            if container.get("image") in replaced:
                container["image"] = replaced[container["image"]]
        return Package(self.path, pipeline, self.platform)

    def with_labels(self, labels: Mapping[str, str]) -> Package:
        """The same pipeline with labels on the pod of every task."""
        if not labels:
            return self
        platform = deepcopy(self.platform)
        configs: Any = platform
        for key in ("platforms", "kubernetes", "deploymentSpec", "executors"):
            configs = configs.setdefault(key, {})
        for name, executor in self.pipeline["deploymentSpec"]["executors"].items():
            if "container" in executor:
                metadata = configs.setdefault(name, {}).setdefault("podMetadata", {})
                metadata["labels"] = {**metadata.get("labels", {}), **labels}
        return Package(self.path, self.pipeline, platform)

    def images(self) -> list[str]:
        """The images of its containers."""
        executors = self.pipeline["deploymentSpec"]["executors"].values()
        return sorted({each["container"]["image"] for each in executors if "container" in each})

    def body(self) -> dict[str, Any]:
        """What the API takes."""
        return {"pipeline_spec": self.pipeline, "platform_spec": self.platform} if self.platform else self.pipeline


def by_name_only(reference: str) -> bool:
    """Whether an image comes from a registry, by a name that may mean another one tomorrow."""
    return "/" in reference and "@sha256:" not in reference


def _is_pipeline(document: dict[str, Any]) -> bool:
    parts = [document.get(key) for key in ("pipelineInfo", "deploymentSpec", "root")]
    if not all(isinstance(part, dict) for part in parts):
        return False
    return "name" in document["pipelineInfo"] and isinstance(document["deploymentSpec"].get("executors"), dict)
