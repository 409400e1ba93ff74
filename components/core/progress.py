"""Progress of long work: a live line with rate and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Progress:
    """One bar: `with Progress("tokenise", total=90_000) as bar: bar.advance(512)`. `total` may be unknown."""

    def __init__(self, label: str, total: float | None = None, unit: str = "rows") -> None:
        self.label, self.total, self.unit = label, total, unit
        self._display: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Display
            from rich.text import Text

            unit = self.unit

            class Rate(ProgressColumn):
                def render(self, task: Any) -> Text:
                    return Text(f"{task.speed:,.0f} {unit}/s" if task.speed else f"– {unit}/s", style="dim")

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), Rate())
            self._display = Display(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self._display.start()
            self._task = self._display.add_task(self.label, total=self.total)
        return self

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more units as done."""
        if self._display is not None:
            self._display.advance(self._task, amount)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None
