"""Parameters of a sweep."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from components.core.fingerprint import canonical_json
from components.core.settings import Section

METRIC = re.compile(r"(?P<task>[^@]+)(?:@(?P<dim>[1-9][0-9]*))?")


class SweepParams(Section):
    """What to try, and what to go by."""

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {"finetune.lr": [0.01, 0.02, 0.04], "finetune.retrieval.temperature": [0.05, 0.07]},
        description="Parameters of pretrain and finetune with the values to try; every combination is a trial.",
    )
    metric: str = Field(
        "score", min_length=1, description="What to go by: score, a task of the suite, or TASK@DIMENSION."
    )
    direction: Literal["max", "min"] = Field("max", description="Whether more is better, or less.")
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [], description="Seeds that every combination is trained with; none: run.seed alone."
    )
    trials: int = Field(64, ge=1, description="Most trials that a sweep may have.")

    @field_validator("grid", "seeds")
    @classmethod
    def _no_value_twice(cls, value: Any) -> Any:
        for key, values in value.items() if isinstance(value, dict) else (("", value),):
            seen = [canonical_json(each) for each in values]
            twice = next((each for each in seen if seen.count(each) > 1), None)
            if twice is not None:
                raise ValueError(f"{key + ': ' if key else ''}{twice} stands there twice")
        return value

    @field_validator("metric")
    @classmethod
    def _is_a_metric(cls, value: str) -> str:
        if METRIC.fullmatch(value) is None:
            raise ValueError("should be score, TASK or TASK@DIMENSION")
        return value
