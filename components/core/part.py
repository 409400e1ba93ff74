"""A part of a stage: what one of several pods does ahead of a step, so that the step itself finds it done.

Parts only ever save time: the step does what none of them has done, and its bytes are the same without any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from components.core.errors import UsageError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Part:
    """The `number`-th (from 1) of `count` shares of a stage."""

    stage: str
    number: int
    count: int

    @classmethod
    def parse(cls, stage: str, share: str) -> Part:
        """The part that `share` names as K/N. Raises UsageError if it names none."""
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", share)
        number, count = (int(each) for each in found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise UsageError(f"--part {share}: expected K/N with 1 ≤ K ≤ N, such as 2/8")
        return cls(stage, number, count)

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `count`-th item: neighbours come from the same source and cost alike, so that shares do too."""
        return items[self.number - 1 :: self.count]

    def owner(self, index: int) -> int:
        """The number of the part whose own the item at `index` is."""
        return index % self.count + 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def part_names(items: int, limit: int) -> list[str]:
    """What `--part` takes for each pod that shares `items` items: one pod an item, `limit` at most, one at least."""
    count = part_count(items, limit)
    return [f"{number}/{count}" for number in range(1, count + 1)]


def part_count(items: int, limit: int) -> int:
    """How many pods share `items` items."""
    return max(1, min(items, limit))
