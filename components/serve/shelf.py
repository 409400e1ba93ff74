"""The model that is served now, and the look-out for its successor."""

from __future__ import annotations

import threading
from collections.abc import Callable

from components.core.errors import EmbedmillError
from components.serve.model import ServedModel, open_model
from components.serve.source import find_release

Log = Callable[[str], None]


class Shelf:
    """Holds one loaded model; a request keeps the one that it took while another takes its place."""

    def __init__(self, spec: str, log: Log) -> None:
        self.model: ServedModel | None = None
        self._spec, self._log = spec, log
        self._problem = ""

    def load(self) -> None:
        """Load what the specification names now, unless that is loaded. Raises EmbedmillError if it cannot be."""
        release = find_release(self._spec)
        loaded = self.model
        if loaded is not None and (loaded.name, loaded.version) == (release.name, release.version):
            return
        self.model = open_model(release.fetch(), release.name, release.version)
        before = f" instead of version {loaded.version}" if loaded is not None else ""
        self._log(f"{release.name} version {release.version}, {self.model.dims[0]} dimensions{before}")

    def watch(self, seconds: float, stop: threading.Event) -> None:
        """Load it, and every successor, until stopped; a failure leaves what is served, and is said once."""
        while True:
            try:
                self.load()
                self._problem = ""
            except Exception as error:  # of MLflow, its artifact store or a damaged model: none may end a server
                self._say_once(str(error) if isinstance(error, EmbedmillError) else f"{type(error).__name__}: {error}")
            if stop.wait(seconds):
                return

    def _say_once(self, problem: str) -> None:
        if problem != self._problem:
            kept = f"; version {self.model.version} stays" if self.model is not None else "; waiting for it"
            self._log(f"{problem}{kept}")
        self._problem = problem
