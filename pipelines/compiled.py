"""Compiled pipelines: the same bytes whenever the same pipeline is compiled."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from kfp import compiler

from components.core.labels import PIPELINE


def compiled(pipeline: Any) -> str:
    """The YAML of a pipeline, the pods of its tasks labelled with its name: the same tasks may stand in several."""
    configs = pipeline.platform_spec.platforms["kubernetes"].deployment_spec.executors
    for config in configs.values():
        config["podMetadata"]["labels"][PIPELINE] = pipeline.pipeline_func.__name__
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text(encoding="utf-8")


def write(pipeline: Any, path: Path) -> None:
    """The command line of a pipeline's module: write it where it belongs."""

    @click.command(help=f"Compile this pipeline into {path}.")
    def command() -> None:
        path.write_text(compiled(pipeline), encoding="utf-8")

    command()
