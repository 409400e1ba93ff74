"""Section `filter` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from components.core.settings import Section
from components.core.sources import Task
from components.filter.reasons import REASONS

DEFAULT = "default"


def _for_all_languages(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {DEFAULT: value}
    if not isinstance(value, dict):
        raise ValueError("should be a valid number, or one for each language: {default: …, zh: …}")
    if DEFAULT not in value:
        raise ValueError(f"needs a value for {DEFAULT}, used where a language has none of its own")
    return value


Language = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
Share = Annotated[float, Field(ge=0, le=1)]
LanguageOrDefault = Annotated[str, Field(pattern=r"^(default|[a-z]{2,3})$")]
Characters = Annotated[int, Field(ge=1)]
CharactersByLanguage = Annotated[dict[LanguageOrDefault, Characters], BeforeValidator(_for_all_languages)]
ShareByLanguage = Annotated[dict[LanguageOrDefault, Share], BeforeValidator(_for_all_languages)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ClassifierParams(Section):
    """A classifier that drops rows with a side it is sure of."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="The reason that its rows are dropped for.")
    uri: str = Field(min_length=1, description="File or folder: fastText, scikit-learn (skops) or ONNX.")
    sha256: Sha256 = Field(description="Its digest, as `embedmill classifier digest` prints it.")
    label: str = Field(min_length=1, description="The label whose probability counts.")
    threshold: Share = Field(description="Probability from which a row is dropped.")
    languages: tuple[Language, ...] = Field(default=(), description="Languages of rows that it judges; empty: all.")
    side: Literal["either", "text", "other"] = Field(
        default="either", description="The text that it judges: `text` (the query), `other` (the passage), or both."
    )


class DomainListParams(Section):
    """A list of domains whose rows are dropped."""

    uri: str = Field(min_length=1, description="One domain a line or a hosts file, `#` comments, also .gz.")
    sha256: Sha256 = Field(description="Its digest, as sha256sum prints it.")


class FluencyParams(Section):
    """Limits on how badly a trigram model of the corpus predicts a text."""

    max_excess: float | None = Field(
        default=0.5, description="Bits a character by which context may mislead more than it helps; null: any."
    )
    min_bits: float | None = Field(
        default=None, ge=0, description="Bits a character: templates and repetition lie below; null: any."
    )
    max_bits: float | None = Field(
        default=15, gt=0, description="Bits a character: rarely seen characters lie above; null: any."
    )
    min_characters: int = Field(default=12, ge=1, description="Shorter texts are not judged.")
    sample_texts: int = Field(default=50_000, ge=1, description="Texts of the corpus that the model is counted from.")


class NearDuplicateParams(Section):
    """Near-duplicate removal: two rows are near-duplicates if both their sides are."""

    threshold: Share | None = Field(
        default=0.85, description="Jaccard of shingles that each side must reach; null keeps near-duplicates."
    )
    shingles: Literal["character", "word"] = Field(
        default="character",
        description="Five of what in a row make a shingle: character, or word (texts in scripts without spaces: always "
        "character); for contamination too.",
    )
    max_cluster: int = Field(
        default=100,
        ge=2,
        description="Rows; a larger cluster only loses rows that are near-duplicates of a row it keeps.",
    )


class SemanticDuplicateParams(Section):
    """Semantic deduplication: two rows are semantic duplicates if both their sides are alike to a model."""

    model: str | None = Field(
        default=None,
        description="The model: a packaged encoder, folder, hub name, models:/NAME@ALIAS or openai:MODEL@URL; "
        "null keeps semantic duplicates.",
    )
    threshold: float = Field(default=0.95, gt=0, le=1, description="Cosine that each side must reach.")
    max_cluster: int = Field(
        default=100, ge=2, description="Rows; a larger cluster only loses rows that are alike to a row it keeps."
    )


class ContaminationParams(Section):
    """What counts as a text of the evaluation suite."""

    exact: bool = Field(
        default=True, description="Drop a row that holds a text of the suite (as normalised for comparing)."
    )
    near: Share | None = Field(
        default=0.8,
        description="Drop a row that holds a text with at least this Jaccard to one of the suite; null: keep it.",
    )

    @model_validator(mode="after")
    def _near_includes_exact(self) -> ContaminationParams:
        if self.near is not None and not self.exact:
            raise ValueError("near finds equal texts too: set it to null, or exact to true")
        return self


def _share(default: float, description: str) -> Any:
    return Field(default_factory=lambda: {DEFAULT: default}, description=description)


class FilterParams(Section):
    """Which rows may be trained on. Thresholds by language fall back to `default`; a plain number is the default."""

    languages: tuple[Language, ...] = Field(
        default=("en",),
        description="ISO 639 codes to keep; texts too short to tell (und) pass; empty keeps every language.",
    )
    language_confidence: Share = Field(
        default=0.7, description="Score of the detector from which a text counts as one of another language."
    )
    min_characters: CharactersByLanguage = Field(
        default_factory=lambda: {DEFAULT: 3, "zh": 2}, description="Characters of each side, at least."
    )
    max_query_characters: CharactersByLanguage = Field(
        default_factory=lambda: {DEFAULT: 1000, "zh": 400}, description="Characters of a retrieval query, at most."
    )
    max_characters: CharactersByLanguage = Field(
        default_factory=lambda: {DEFAULT: 20000, "zh": 10000}, description="Characters of any other text, at most."
    )
    max_symbol_share: ShareByLanguage = _share(0.5, "Share of characters that are no letter, digit or space.")
    max_digit_share: ShareByLanguage = _share(0.5, "Share of characters that are digits.")
    min_distinct_share: ShareByLanguage = _share(
        0.2, "Distinct 5-grams over all 5-grams; judged from 40 characters on."
    )
    max_repeated_share: ShareByLanguage = _share(
        0.4, "Share of characters in lines and sentences that stand earlier in the text; judged from 40 characters on."
    )
    max_url_share: ShareByLanguage = _share(0.5, "Share of characters inside web addresses.")
    max_boilerplate_share: ShareByLanguage = _share(
        0.5, "Share of characters in notices, buttons and navigation; judged from 20 characters on."
    )
    max_mojibake_share: ShareByLanguage = _share(
        0.01, "Share of characters that come from decoding with a wrong encoding."
    )
    max_contained_share: dict[Task, Share] = Field(
        default={"retri_contrast": 0.8},
        description="By task: a side inside the other is at most this share of it; tasks without a value allow all.",
    )
    max_length_ratio: dict[Task, Annotated[float, Field(ge=1)]] = Field(
        default={"cosent": 100},
        description="By task: longer over shorter side (below 10 characters counts as 10); without a value allow all.",
    )
    blocked_domains: tuple[DomainListParams, ...] = Field(
        default=(), description="Lists of domains; rows whose url lies in one are dropped."
    )
    safety: tuple[ClassifierParams, ...] = Field(default=(), description="Safety classifiers, in order.")
    quality: tuple[ClassifierParams, ...] = Field(default=(), description="Quality classifiers, in order.")
    fluency: FluencyParams | None = Field(
        default=None, description="Limits on how badly the corpus predicts a text; null judges none."
    )
    near_duplicates: NearDuplicateParams = Field(
        default_factory=lambda: NearDuplicateParams(), description="Rows of one task whose sides both nearly agree."
    )
    task_memory: int = Field(
        default=1024,
        ge=1,
        description="MiB that a task of the deduplication plans with; less makes more tasks and changes no row.",
    )
    semantic_duplicates: SemanticDuplicateParams = Field(
        default_factory=lambda: SemanticDuplicateParams(),
        description="Rows of one task whose sides both say the same to a model.",
    )
    contamination: ContaminationParams = Field(
        default_factory=lambda: ContaminationParams(), description="Texts of evaluate.suite in training rows."
    )

    @property
    def classifiers(self) -> dict[str, str]:
        """The stage of each classifier by its name, which is its rows' reason; in the order in which they judge."""
        return {entry.name: stage for stage in ("safety", "quality") for entry in getattr(self, stage)}

    @model_validator(mode="after")
    def _names_are_distinct(self) -> FilterParams:
        names = [entry.name for entry in (*self.safety, *self.quality)]
        for index, name in enumerate(names):
            if name in (*REASONS, *names[:index]):
                raise ValueError(f"two reasons are named {name!r}; give the classifier another name")
        return self
