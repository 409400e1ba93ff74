"""The step `report`: evidence in, one page out."""

from __future__ import annotations

from components.core import storage
from components.core.step import Context
from components.report.evidence import Evidence, read_evidence
from components.report.examples import examples_block
from components.report.funnel import funnel_block
from components.report.headline import headline
from components.report.negatives import negatives_block
from components.report.page import document
from components.report.picture import picture
from components.report.quality import baselines_block, dimensions_block
from components.report.training import losses_block, scores_block


def run(ctx: Context) -> None:
    """Write the page and, where it is asked for, the picture. Raises InputError for a result file that is malformed."""
    evidence = read_evidence(ctx.inputs)
    storage.write_bytes(ctx.outputs["page"], page(evidence))
    if "picture" in ctx.outputs:
        storage.write_bytes(ctx.outputs["picture"], picture(evidence))


def page(evidence: Evidence) -> bytes:
    """The HTML file."""
    blocks = [
        dimensions_block(evidence),
        baselines_block(evidence),
        examples_block(evidence),
        funnel_block(evidence),
        scores_block(evidence),
        losses_block(evidence),
        negatives_block(evidence),
    ]
    footer = (
        "Drawn by embedmill from the files of this run. The page loads nothing and runs no script. "
        "Rest the pointer on a mark to read its value."
    )
    return document("Embedmill report", headline(evidence), blocks, footer)
