"""Promotion by reconciling: whoever registers a model makes the registry agree with itself, whoever else does so.

Versions carry what decides (`gate`, `score`, `suite`), and the champion follows from them: the best version that has
passed on the current suite. Reading, comparing and setting would be wrong as soon as two writers do it at once; here
each writer states the facts of its own version first, then reads everything, sets the alias if it differs, and reads
again until nothing differs. The last one to set the alias has read after all facts were written, so the end is right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from components.core.errors import EmbedmillError
from components.core.tracking import CHAMPION, MODEL, champion

GATE, SCORE, SUITE = "gate", "score", "suite"
PASSED, FAILED, REVOKED = "passed", "failed", "revoked"
MAX_ROUNDS = 100


def declare_suite(client: Any, suite: str) -> None:
    """Make `suite` the current one: only versions measured on it can become champion from now on."""

    def settled() -> bool:
        return bool(client.get_registered_model(MODEL).tags.get(SUITE) == suite)

    _settle(settled, lambda: client.set_registered_model_tag(MODEL, SUITE, suite))


def reconcile(client: Any) -> Any | None:
    """Make the champion the best passed version on the current suite; returns it (None: there is none).

    If nothing has passed on the current suite, a champion that has passed on an earlier one stays; one whose gate is
    no longer `passed` loses the alias.
    """
    best: Any = None
    now: Any = None

    def settled() -> bool:
        nonlocal best, now
        best, now = best_version(client), champion(client)
        if best is None:
            return now is None or now.tags.get(GATE) == PASSED
        return now is not None and now.version == best.version

    def write() -> None:
        if best is None:
            client.delete_registered_model_alias(MODEL, CHAMPION)
        else:
            client.set_registered_model_alias(MODEL, CHAMPION, best.version)

    _settle(settled, write)
    return now


def _settle(settled: Callable[[], bool], write: Callable[[], None]) -> None:
    """Write until a look afterwards finds it settled. A write that collides with another one fails and is no error:
    MLflow refuses the second of two writers that set an alias or a tag for the first time."""
    from mlflow.exceptions import MlflowException

    collision: Exception | None = None
    for _ in range(MAX_ROUNDS):
        if settled():
            return
        try:
            write()
        except MlflowException as error:
            collision = error
    raise EmbedmillError(f"{MODEL}: other writers keep changing the champion; run register again") from collision


def best_version(client: Any) -> Any | None:
    """The version with the highest score of those that passed on the current suite; of equals, the oldest."""
    suite = client.get_registered_model(MODEL).tags.get(SUITE)
    passed = [
        version
        for version in all_versions(client)
        if version.tags.get(GATE) == PASSED and version.tags.get(SUITE) == suite and SCORE in version.tags
    ]
    return max(passed, key=lambda version: (float(version.tags[SCORE]), -int(version.version)), default=None)


def all_versions(client: Any, condition: str = "") -> list[Any]:
    """Every version of the registered model that meets a further search condition, oldest first."""
    found: list[Any] = []
    token = None
    while True:
        page = client.search_model_versions(f"name = '{MODEL}'{condition}", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))
