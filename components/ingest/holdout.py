"""Which groups of rows are held out for evaluation: a function of the group's name, so that a group is never split."""

from __future__ import annotations

import xxhash


def is_held_out(group: str, share: float) -> bool:
    """Whether the 64-bit hash of `group` falls into the first `share` of its range."""
    return share > 0 and xxhash.xxh3_64_intdigest(group.encode()) < share * 2**64
