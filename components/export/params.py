"""Section `export` of params.yaml."""

from __future__ import annotations

from pydantic import Field

from components.core.settings import Section


class ExportParams(Section):
    """What the model card says that no measurement can know."""

    name: str = Field(default="embedmill-static", min_length=1, description="Name of the model in its card.")
    license: str = Field(
        default="other",
        min_length=1,
        description="Licence in the card, as the Hugging Face hub names it; the texts' licences decide it.",
    )
