"""Parameters of the flywheel."""

from __future__ import annotations

from pydantic import Field

from components.core.settings import Section


class FlywheelParams(Section):
    """Where feedback comes from."""

    feedback: str = Field(
        "feedback/",
        min_length=1,
        description="Folder or S3 prefix of feedback files (*.jsonl: query, clicked, skipped); a file is never edited.",
    )
