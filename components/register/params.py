"""Parameters of the `register` step: the gate is a list of rules."""

from __future__ import annotations

from pydantic import Field, model_validator

from components.core.settings import Section

CHAMPION = "champion"


class GateRule(Section):
    """One comparison that the model has to hold, on one measured value, in the unit of that value (percent)."""

    task: str | None = Field(default=None, description="Task of the suite; none: its first task.")
    metric: str | None = Field(
        default=None, description="Metric of the task; none: nDCG@10 for retrieval, else Spearman."
    )
    dim: int | None = Field(default=None, ge=1, description="Dimension; none: the full one.")
    at_least: float | None = Field(default=None, description="The lowest value that holds.")
    over: tuple[str, ...] = Field(
        (), description="Systems to compare with: the best of those measured on the task, or `champion`."
    )
    by: float = Field(
        default=0.0, description="With `over`: the lead that is wanted; below zero, the loss that is tolerated."
    )

    @model_validator(mode="after")
    def _one_comparison(self) -> GateRule:
        if (self.at_least is None) == (not self.over):
            raise ValueError("a rule has either at_least or over")
        if CHAMPION in self.over and len(self.over) > 1:
            raise ValueError("champion is compared with alone; other systems need a rule of their own")
        return self


DEFAULT_RULES = (
    GateRule(over=("bm25", "tfidf"), by=0.0),
    GateRule(over=(CHAMPION,), by=-1.0),
)


class RegisterParams(Section):
    """Section `register` of params.yaml."""

    rules: tuple[GateRule, ...] = Field(
        default=DEFAULT_RULES, description="The gate: a model that breaks a rule is refused."
    )
    strict: bool = Field(
        default=False, description="End with exit code 4 if the gate refuses; the version is kept anyway."
    )
