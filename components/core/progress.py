"""Progress of long work: a live line with rate and time left on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from components.core import environment
from components.core.errors import InputError

FOLLOW_SECONDS = 2.0


class Progress:
    """One bar: `with Progress("tokenise", total=90_000) as bar: bar.advance(512)`. `total` may be unknown."""

    def __init__(self, label: str, total: float | None = None, unit: str = "rows") -> None:
        self.label, self.total, self.unit = label, total, unit
        self._display: Any = None
        self._task: Any = None
        self._done = 0.0
        self._ended = threading.Event()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and environment.rank() == 0:
            from rich.console import Console
            from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Display
            from rich.text import Text

            unit = self.unit

            class Rate(ProgressColumn):
                def render(self, task: Any) -> Text:
                    return Text(f"{task.speed:,.0f} {unit}/s" if task.speed else f"– {unit}/s", style="dim")

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), Rate())
            note = TextColumn("{task.fields[note]}", style="dim", markup=False)
            self._display = Display(*columns, TimeRemainingColumn(), note, console=Console(stderr=True), transient=True)
            self._display.start()
            self._task = self._display.add_task(self.label, total=self.total, note="")
        return self

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more units as done."""
        self._done += amount
        if self._display is not None:
            self._display.update(self._task, completed=self._done)

    def expect(self, total: float, done: float) -> None:
        """Say late how much there is in all, and how much of it was done before."""
        self.total, self._done = total, done
        if self._display is not None:
            self._display.reset(self._task, total=total, completed=done)

    def note(self, text: str) -> None:
        """Show figures beside the bar."""
        if self._display is not None:
            self._display.update(self._task, note=text)

    def follow(self, measure: Callable[[], float]) -> None:
        """Show what work elsewhere has done too: `measure` says how many units beyond those that were counted.

        It is asked every two seconds, by a thread of its own, until the body ends; never where nothing is shown.
        """
        if self._display is not None:
            threading.Thread(target=self._follow, args=(measure, self._display), daemon=True).start()

    def _follow(self, measure: Callable[[], float], display: Any) -> None:
        while not self._ended.wait(FOLLOW_SECONDS):
            with suppress(InputError):  # what cannot be seen now is seen later
                display.update(self._task, completed=self._done + measure())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._display is not None:
            self._display.stop()
            self._display = None
