"""Section `finetune` of params.yaml."""

from __future__ import annotations

from pydantic import Field, model_validator

from components.training.settings import (
    ClassParams,
    MatryoshkaParams,
    MaxTokens,
    MiningParams,
    PromptParams,
    RetrievalParams,
    ScheduleParams,
    SimilarityParams,
    TrainingParams,
)


class FinetuneParams(TrainingParams):
    """Section `finetune` of params.yaml."""

    epochs: int = Field(default=1, ge=1, description="Passes over each task's records.")
    lr: float = Field(default=0.02, gt=0, description="Peak learning rate of AdamW.")
    keep: float = Field(
        default=0.3, ge=0, lt=1, description="Share of the pretrained weights in the result (Wortsman et al. 2022)."
    )
    max_tokens: MaxTokens | None = Field(
        default=None, description="Tokens read of a text, or {query, passage}; null: the pretrained model's."
    )
    prompts: PromptParams | None = Field(default=None, description="Before texts, by side; null: those of pretraining.")
    matryoshka: MatryoshkaParams = Field(
        default=MatryoshkaParams(), description="Dimensions trained to stand alone; dims null: those of pretraining."
    )
    schedule: ScheduleParams = Field(default=ScheduleParams(), description="Which task a step trains.")
    mining: MiningParams = Field(default=MiningParams(), description="Hard-negative mining.")
    retrieval: RetrievalParams = Field(default=RetrievalParams(), description="Task retri_contrast.")
    similarity: SimilarityParams = Field(default=SimilarityParams(), description="Task cosent.")
    classes: ClassParams = Field(default=ClassParams(), description="Task cls_contrast.")

    @model_validator(mode="after")
    def _parts_fit(self) -> FinetuneParams:
        roles, mining = self.schedule.roles, self.mining
        if self.schedule.sampling == "balanced" and roles.retrieval > 1:
            if not mining.negatives:
                raise ValueError(
                    "schedule.roles: retrieval roles hold different negatives; set mining.negatives to 1 or more"
                )
            least = mining.negatives * roles.retrieval + max(
                mining.first, mining.dynamic.offset if mining.dynamic else 0
            )
            if mining.last < least:
                raise ValueError(
                    f"mining: last must be {least} or more: {roles.retrieval} retrieval roles hold "
                    f"{mining.negatives} negatives each"
                )
        if self.zero == 3 and mining.dynamic:
            raise ValueError(
                "zero: in stage 3 no process has the weights to mine with; use up to 2 with mining.dynamic"
            )
        return self
