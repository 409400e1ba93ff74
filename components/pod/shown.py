"""What Kubeflow Pipelines is told of a step's outputs: their URIs, numbers for its tables, pages for its viewer.

A container that writes artefacts says what they are in a file of its own, the executor's output; one that says nothing
is shown without its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.core import storage
from components.core.errors import InputError, UsageError
from components.core.step import Step

METRICS_LIMIT = 100  # numbers of one task: more than that nobody reads in a table


def write_output(path: str, value: Any) -> None:
    """An output parameter: text as it is, anything else as JSON."""
    storage.write_bytes(path, (value if isinstance(value, str) else json.dumps(value)).encode())


def show(step: Step, outputs: Mapping[str, str], wanted: Sequence[tuple[str, str, str]], executor_input: str) -> None:
    """Copy the outputs that are shown to where Kubeflow Pipelines takes them from.

    `wanted` are (port, local path, URI of the artefact), `executor_input` what Kubeflow Pipelines says of the task, as
    JSON. Raises InputError if an output is not there.
    """
    ports = {port.name: port for port in step.outputs if port.shows}
    artifacts = {}
    for name, path, uri in wanted:
        content = storage.read_bytes(outputs[name])
        storage.write_bytes(path, content)
        metadata = _metadata(content, outputs[name]) if ports[name].shows == "metrics" else {}
        key = artifact_name(name)
        artifacts[key] = {"artifacts": [{"name": key, "uri": uri, "metadata": metadata}]}
    if artifacts:
        write_output(executor_output(executor_input), {"artifacts": artifacts})


def show_failure(uri: str, wanted: Sequence[tuple[str, str, str]]) -> None:
    """Put what says why there is no output where the outputs would be shown."""
    for _, path, _ in wanted:
        write_output(path, storage.read_bytes(uri).decode())


def executor_output(executor_input: str) -> str:
    """The file in which a task tells what its artefacts are. Raises UsageError if the executor input names none."""
    try:
        return str(json.loads(executor_input)["outputs"]["outputFile"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            '--executor-input: expected JSON such as {"outputs": {"outputFile": "/tmp/told.json"}}'
        ) from None


def artifact_name(port: str) -> str:
    """The name of the artefact that shows a port, whose own name is that of the URI."""
    return f"shown_{port}"


def _metadata(content: bytes, uri: str) -> dict[str, float]:
    try:
        value = json.loads(content)
    except ValueError:
        raise InputError(f"{uri}: not valid JSON, so its numbers cannot be shown") from None
    return dict(list(_numbers(value))[:METRICS_LIMIT])


def _numbers(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key in value:
            yield from _numbers(value[key], f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield prefix, value
