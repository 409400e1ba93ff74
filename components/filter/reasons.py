"""Why the filter drops a row: the reasons, by the stages in their order.

Declarations import this, before the number of threads is fixed that numerical libraries read when they are imported.
"""

from __future__ import annotations

STAGES: dict[str, tuple[str, ...]] = {
    "normalise": ("empty",),
    "language": ("language",),
    "length": ("too_short", "too_long"),
    "heuristics": ("mojibake", "symbols", "digits", "repetition", "urls", "boilerplate"),
    "pairs": ("identical_sides", "contained", "unequal_sides"),
    "safety": ("blocked_domain",),
    "quality": ("fluency",),
    "exact_duplicates": ("exact_duplicate",),
    "near_duplicates": ("near_duplicate",),
    "semantic_duplicates": ("semantic_duplicate",),
    "contamination": ("contaminated_exact", "contaminated_near"),
}
KEPT = 0
REASONS = ("", *(reason for reasons in STAGES.values() for reason in reasons))
CODES = {reason: code for code, reason in enumerate(REASONS)}
