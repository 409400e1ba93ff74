"""Parameters that pretrain and finetune share: the model, what a batch is, the losses, the optimiser, the run.

Classes here say what params.yaml may hold. A value left ``null`` stands for what the model itself says, or for off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.core.settings import Section
from components.core.step import Port
from components.core.suite import SuiteParams

CHECKPOINTS = Port(
    "checkpoints",
    "folder",
    "",
    "Where checkpoints are copied to (s3://…), so that a machine without them goes on from there.",
    optional=True,
)

Temperature = Annotated[float, Field(ge=0.005, le=1)]
Dim = Annotated[int, Field(ge=1)]
Reduction = Literal["mean", "sum"]
TEXT = "{text}"


class PositionParams(Section):
    """More positions for a model that has learned fewer, by hierarchical decomposition."""

    length: int = Field(ge=2, description="Positions that the model is to have; at most the square of what it has.")
    alpha: float = Field(
        default=0.4, gt=0, lt=1, description="Share of the coarse position in a new one (Piccolo2's report)."
    )

    @model_validator(mode="after")
    def _alpha_is_no_half(self) -> PositionParams:
        if self.alpha == 0.5:
            raise ValueError("alpha 0.5 gives positions i·n+j and j·n+i the same embedding; 0.4 is usual")
        return self


class ModelParams(Section):
    """What is trained: a table of token vectors, or a transformer with pooling and, if wanted, a scaling layer."""

    type: Literal["static", "transformer"] = Field(
        default="static", description="static: a table of token vectors; transformer: an encoder with attention."
    )
    name: str | None = Field(
        default=None, min_length=1, description="Folder or hub name (org/name) to start from; null: from scratch."
    )
    layers: int = Field(default=4, ge=1, description="From scratch: layers.")
    hidden: int = Field(default=312, ge=8, description="From scratch: width of a layer.")
    heads: int = Field(default=12, ge=1, description="From scratch: attention heads; they divide hidden.")
    intermediate: int = Field(default=1200, ge=8, description="From scratch: width of the feed-forward part.")
    max_positions: int = Field(default=512, ge=8, description="From scratch: positions that are learned.")
    pooling: Literal["cls", "mean", "last"] | None = Field(
        default=None, description="Which token stands for a text; null: what the model was trained with, else mean."
    )
    dense: int | None = Field(
        default=None, ge=1, description="Outputs of a scaling layer (Conan, Piccolo2: 1792); null: what the model has."
    )
    positions: PositionParams | None = Field(
        default=None, description="{length, alpha: 0.4} adds learned positions by hierarchical decomposition."
    )
    vectors: str | None = Field(
        default=None,
        description="static: .npy or .safetensors with a start vector for each token of a given tokenizer.",
    )
    token_weights: str | None = Field(
        default=None, description="static: .npy, .safetensors or .json (token: weight); null: inverse frequency."
    )

    @model_validator(mode="after")
    def _keys_fit_the_type(self) -> ModelParams:
        given = self.model_fields_set
        if self.type == "static":
            wrong = [name for name in ("name", "pooling", "dense", "positions") if getattr(self, name) is not None]
            if wrong:
                raise ValueError(f"{wrong[0]} is for transformers; set type: transformer, or leave it null")
        else:
            wrong = [name for name in ("vectors", "token_weights") if getattr(self, name) is not None]
            if wrong:
                raise ValueError(f"{wrong[0]} is for static models; set type: static, or leave it null")
            if self.name is None and self.hidden % self.heads:
                shown = "" if "heads" in given else " (its default)"
                raise ValueError(f"hidden {self.hidden} must be a multiple of heads {self.heads}{shown}")
        return self


class PromptParams(Section):
    """What is put before a text, or around {text}, by the side it stands on."""

    query: str = Field(default="", description="Before queries.")
    passage: str = Field(default="", description="Before passages.")
    symmetric: str = Field(default="", description="Before texts of graded pairs and of classes.")

    @model_validator(mode="after")
    def _text_once(self) -> PromptParams:
        for side in ("query", "passage", "symmetric"):
            prompt = getattr(self, side)
            if prompt.count(TEXT) > 1:
                raise ValueError(f"{side}: {TEXT} may stand in it once, where the text goes")
        return self


class SideTokens(Section):
    """Token limits by side."""

    query: int = Field(ge=8, description="Tokens read of a query.")
    passage: int = Field(ge=8, description="Tokens read of any other text.")


MaxTokens = Annotated[int, Field(ge=8)] | SideTokens


def side_limits(limit: MaxTokens) -> tuple[int, int]:
    """Limits of queries and of all other texts."""
    return (limit, limit) if isinstance(limit, int) else (limit.query, limit.passage)


def longest(limit: MaxTokens) -> int:
    """The limit of the longer side: what a model's own tokenizer cuts at."""
    return max(side_limits(limit))


class MatryoshkaParams(Section):
    """Leading dimensions that are trained to stand alone (Kusupati et al. 2022)."""

    dims: tuple[Dim, ...] | None = Field(
        default=None, min_length=1, description="Dimensions that the loss is taken at."
    )
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        default=None, description="Weight of each dimension's loss, in the order of dims; null: equal ones."
    )
    reduction: Reduction = Field(
        default="mean", description="How losses over the dimensions are combined (sum: as sentence-transformers)."
    )

    @property
    def descending(self) -> list[int]:
        """The dimensions, largest first; none if they are the model's."""
        return sorted(self.dims or (), reverse=True)

    @model_validator(mode="after")
    def _weights_match(self) -> MatryoshkaParams:
        dims: Sequence[int] = self.dims or ()
        if len(set(dims)) != len(dims):
            raise ValueError(f"dims names {next(dim for dim in dims if list(dims).count(dim) > 1)} twice")
        if self.weights is not None and len(self.weights) != len(dims):
            raise ValueError(f"weights has {len(self.weights)} values, dims {len(dims)}")
        return self


class GuideParams(Section):
    """False negatives are left out of the loss where a guide model thinks them answers (GISTEmbed, Solatorio 2024)."""

    model: str = Field(min_length=1, description="Encoder whose cosines decide, named as in score.teachers.")
    kind: Literal["absolute", "relative"] = Field(
        default="absolute",
        description="absolute: cosine above the positive's minus margin; relative: above its share 1 - margin.",
    )
    margin: float = Field(default=0.0, ge=0, lt=1, description="How far below the positive a negative must stay.")


class ScoreDistillParams(Section):
    """A teacher's scores of the candidates beside the contrastive loss; they stand in the records (pos_scores …)."""

    kind: Literal["kl_div", "margin"] = Field(
        default="kl_div", description="kl_div: distribution over the candidates (BGE); margin: differences (MarginMSE)."
    )
    weight: float = Field(default=1.0, gt=0, description="Factor of this loss beside the contrastive one.")
    temperature: float = Field(default=1.0, gt=0, description="kl_div: softmax temperature of the teacher's scores.")


class RetrievalParams(Section):
    """Query and passage: InfoNCE over the batch's passages and hard negatives."""

    batch_size: int = Field(default=1024, ge=2, description="Pairs a step, over all processes.")
    temperature: Temperature = Field(default=0.07, description="Softmax temperature.")
    learn_temperature: bool = Field(default=False, description="Train the temperature with the model, as CLIP does.")
    in_batch: bool = Field(default=True, description="The batch's other passages are negatives too.")
    symmetric: bool = Field(default=False, description="Also from passage to query (both halves weigh the same).")
    query_query: bool = Field(default=False, description="The batch's other queries are negatives too.")
    passage_passage: bool = Field(default=False, description="The positive is set against the other passages too.")
    guide: GuideParams | None = Field(
        default=None, description="{model, kind, margin} leaves out negatives that a guide model takes for answers."
    )
    distill: ScoreDistillParams | None = Field(
        default=None, description="{kind, weight, temperature} adds the scores that a teacher left in the records."
    )


class SimilarityParams(Section):
    """Graded pairs: CoSENT."""

    batch_size: int = Field(default=512, ge=2, description="Pairs a step; all are ranked against one another.")
    temperature: Temperature = Field(default=0.05, description="Temperature of the ranked cosines (Piccolo2).")
    weight: float = Field(
        default=0.1, gt=0, description="Factor of its loss beside the retrieval loss (0.04 in Piccolo2)."
    )


class ClassParams(Section):
    """A text against its label text and others of the same source, without in-batch negatives."""

    batch_size: int = Field(default=256, ge=1, description="Texts a step.")
    negatives: int = Field(default=10, ge=1, description="Other labels of a text, drawn if it names none (Piccolo2).")
    temperature: Temperature = Field(default=0.05, description="Softmax temperature (Piccolo2).")
    weight: float = Field(default=0.2, gt=0, description="Factor of its loss beside the retrieval loss (Piccolo2).")


class DynamicParams(Section):
    """Hard negatives that have become easy are replaced while training goes on (Conan-embedding, section 3.3)."""

    check_every: int = Field(default=100, ge=1, description="Steps between checks.")
    ratio: float = Field(default=1.15, gt=1, description="Replaced when ratio · score falls below the first score …")
    ceiling: float = Field(default=0.8, gt=0, le=1, description="… and its absolute value is below this.")
    offset: int = Field(default=10, ge=0, description="Replacement i takes ranks (i-1)·n+offset to i·n+offset.")


class MiningParams(Section):
    """Hard negatives: passages that the model ranks high for a query without being its answer."""

    negatives: int = Field(default=2, ge=0, description="Hard negatives of a pair; 0 leaves only those of the batch.")
    first: int = Field(
        default=2, ge=0, description="Best rank taken (from 0): the ranks above often hold unlabelled answers."
    )
    last: int = Field(default=32, ge=1, description="Rank at which the search for negatives ends.")
    ceiling: float = Field(
        default=0.95, gt=0, description="Share of the positive's score above which a passage counts as another answer."
    )
    dims: int = Field(default=256, ge=1, description="Leading dimensions that the search uses.")
    dynamic: DynamicParams | None = Field(
        default=None,
        description="{check_every: 100, ratio: 1.15, ceiling: 0.8, offset: 10} replaces negatives that became easy.",
    )

    @model_validator(mode="after")
    def _window_holds_negatives(self) -> MiningParams:
        if self.last - self.first < self.negatives:
            raise ValueError(f"last must be first + negatives ({self.first + self.negatives}) or more")
        if self.dynamic and not self.negatives:
            raise ValueError("dynamic needs negatives to replace; set negatives to 1 or more")
        if self.dynamic and self.last < self.dynamic.offset + self.negatives:
            needed = self.dynamic.offset + self.negatives
            raise ValueError(f"last must be dynamic.offset + negatives ({needed}) or more: replacements start there")
        return self


class BatchParams(Section):
    """What rows may share a batch."""

    batch_tokens: int | None = Field(
        default=None, ge=8, description="Most tokens of a batch; larger ones are made shorter. null: rows alone count."
    )
    same_source: bool = Field(default=False, description="Rows of a batch come from one source.")


class RoleParams(Section):
    """Cross-GPU batch balance: how many roles of each task make a step (Conan-embedding, section 3.4)."""

    retrieval: int = Field(
        default=4, ge=0, description="Roles that share queries and positives, each with its negatives."
    )
    similarity: int = Field(default=1, ge=0, description="Roles with a similarity batch each.")
    classes: int = Field(default=0, ge=0, description="Roles with a class batch each.")

    @property
    def total(self) -> int:
        """All roles: a multiple of the number of processes."""
        return self.retrieval + self.similarity + self.classes

    @model_validator(mode="after")
    def _some_role(self) -> RoleParams:
        if not self.total:
            raise ValueError("at least one role is needed")
        return self


class ScheduleParams(BatchParams):
    """Which task a step trains: one (homogeneous batches), or all of them (balanced)."""

    sampling: Literal["proportional", "round_robin", "weighted", "balanced"] = Field(
        default="proportional",
        description="proportional to the batches of each task, in turn, by weights, or every task in every step.",
    )
    weights: dict[Literal["retrieval", "similarity", "classes"], Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict, description="weighted: share of the steps by task: {retrieval: 2, similarity: 1}."
    )
    roles: RoleParams = Field(
        default=RoleParams(), description="balanced: roles of each task in a step (Conan's five)."
    )

    @model_validator(mode="after")
    def _weights_are_used(self) -> ScheduleParams:
        if bool(self.weights) != (self.sampling == "weighted"):
            raise ValueError(f"weights and sampling: weighted belong together, found sampling: {self.sampling}")
        return self


class CheckpointParams(Section):
    """When the state is written that a killed run goes on from."""

    steps: int | None = Field(default=200, ge=1, description="Steps between checkpoints; null: by time alone.")
    minutes: float | None = Field(default=None, gt=0, description="Minutes between checkpoints; null: by steps alone.")
    keep: int = Field(default=2, ge=1, description="Checkpoints kept: the last ones, and the best by dev metric.")

    @model_validator(mode="after")
    def _some_interval(self) -> CheckpointParams:
        if self.steps is None and self.minutes is None:
            raise ValueError("steps or minutes must be given")
        return self


class DevParams(Section):
    """Measuring during training: on rows kept out of it, or on tasks of one's own."""

    every: int = Field(default=500, ge=1, description="Steps between measurements.")
    rows: int = Field(default=1000, ge=0, description="Records kept out of training to measure on; 0: the suite alone.")
    suite: tuple[SuiteParams, ...] = Field(default=(), description="Tasks to measure on, as in evaluate.suite.")
    metric: str | None = Field(
        default=None, description="Task that decides (retrieval, similarity, classes or a suite's); null: their mean."
    )
    patience: int | None = Field(
        default=None, ge=1, description="Measurements without a better one after which training stops; null: never."
    )

    @model_validator(mode="after")
    def _something_to_measure(self) -> DevParams:
        if not self.rows and not self.suite:
            raise ValueError("rows or suite must be given")
        for entry in self.suite:
            if entry.type == "heldout":
                raise ValueError(f"suite: {entry.name}: type heldout is what evaluate measures on; use sts or beir")
        return self


class TrainingParams(Section):
    """Keys that the sections `pretrain` and `finetune` share."""

    warmup: float = Field(default=0.1, ge=0, le=1, description="Share of the steps in which the learning rate rises.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decay of AdamW, a step and unit of learning rate.")
    clip: float | None = Field(default=None, gt=0, description="Largest norm of the gradient; null: any.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="bf16",
        description="Of a transformer's forward pass and of similarity products; softmax and weights stay fp32.",
    )
    zero: Literal[0, 1, 2, 3] | None = Field(
        default=None, description="Stage of DeepSpeed's ZeRO; null: plain torch, every process holds everything."
    )
    freeze_positions: bool = Field(default=False, description="Leave position embeddings as they are.")
    gradient_checkpointing: bool = Field(
        default=False, description="Compute activations twice instead of keeping them: less memory, a third more time."
    )
    chunk_tokens: int = Field(
        default=8192, ge=8, description="Tokens of a forward pass; a larger batch is done in parts (GradCache)."
    )
    checkpoint: CheckpointParams = Field(default=CheckpointParams(), description="When the state is written.")
    dev: DevParams | None = Field(
        default=None, description="{every, rows, suite, metric, patience} measures during training; null: not at all."
    )
