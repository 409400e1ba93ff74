"""Section `finetune` of params.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.core.settings import Section


class MiningParams(Section):
    """Hard negatives: passages that the pretrained model ranks high for a query without being its answer."""

    negatives: int = Field(default=2, ge=0, description="Hard negatives of a pair; 0 leaves only those of the batch.")
    first: int = Field(
        default=2, ge=0, description="Best rank taken (from 0): the ranks above often hold unlabelled answers."
    )
    last: int = Field(default=32, ge=1, description="Rank at which the search for negatives ends.")
    ceiling: float = Field(
        default=0.95, gt=0, description="Share of the positive's score above which a passage counts as another answer."
    )
    dims: int = Field(default=256, ge=1, description="Leading dimensions that the search uses.")

    @model_validator(mode="after")
    def _window_holds_negatives(self) -> MiningParams:
        if self.last - self.first < self.negatives:
            raise ValueError(f"last must be first + negatives ({self.first + self.negatives}) or more")
        return self


class RetrievalParams(Section):
    """Query and passage: InfoNCE over the batch's passages and the mined negatives."""

    batch_size: int = Field(default=1024, ge=2, description="Pairs a step.")
    temperature: float = Field(default=0.07, ge=0.01, le=1, description="Softmax temperature.")


class SimilarityParams(Section):
    """Graded pairs: CoSENT."""

    batch_size: int = Field(default=512, ge=2, description="Pairs a step; all are ranked against one another.")
    temperature: float = Field(default=0.05, ge=0.01, le=1, description="Temperature of the ranked cosines (Piccolo2).")
    weight: float = Field(
        default=0.1, gt=0, description="Factor of its loss beside the retrieval loss (0.04 in Piccolo2)."
    )


class ClassParams(Section):
    """A text against its label text and others of the same source, without in-batch negatives."""

    batch_size: int = Field(default=256, ge=1, description="Texts a step.")
    negatives: int = Field(default=10, ge=1, description="Other labels of a text, drawn if it names none (Piccolo2).")
    temperature: float = Field(default=0.05, ge=0.01, le=1, description="Softmax temperature (Piccolo2).")
    weight: float = Field(default=0.2, gt=0, description="Factor of its loss beside the retrieval loss (Piccolo2).")


class FinetuneParams(Section):
    """Section `finetune` of params.yaml."""

    epochs: int = Field(default=1, ge=1, description="Passes over each task's records.")
    lr: float = Field(default=0.02, gt=0, description="Peak learning rate of AdamW.")
    warmup: float = Field(default=0.1, ge=0, le=1, description="Share of the steps in which the learning rate rises.")
    keep: float = Field(
        default=0.3, ge=0, lt=1, description="Share of the pretrained weights in the result (Wortsman et al. 2022)."
    )
    reduction: Literal["mean", "sum"] = Field(
        default="mean", description="How losses over the dimensions are combined."
    )
    mining: MiningParams = Field(default=MiningParams(), description="Hard-negative mining.")
    retrieval: RetrievalParams = Field(default=RetrievalParams(), description="Task retri_contrast.")
    similarity: SimilarityParams = Field(default=SimilarityParams(), description="Task cosent.")
    classes: ClassParams = Field(default=ClassParams(), description="Task cls_contrast.")
    precision: Literal["bf16", "fp32"] = Field(
        default="bf16",
        description="Operands of the similarity products; softmax, gradients of the table and weights are fp32.",
    )
    checkpoint_steps: int = Field(default=200, ge=1, description="Steps between checkpoints.")
