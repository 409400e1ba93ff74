"""A failure as the output of a step, so that one trial of a sweep fails and its run goes on to the others.

Kubeflow starts nothing more of a loop once one of its tasks has failed. A tolerant pod therefore ends well, and instead
of every output it names a file that says what failed; the pods behind it pass that on. Being stopped is no failure.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import click

from components.core import storage
from components.core.errors import EmbedmillError, InputError, Interrupted
from components.core.fingerprint import json_document
from components.pod.places import Place

FILE = "failure.json"


@dataclass(frozen=True)
class Failure:
    """Which step failed, with which exit code, what it said, and in which run of the pipeline."""

    step: str
    exit_code: int
    said: str
    run: str

    @classmethod
    def read(cls, uri: str) -> Failure:
        """Read it back. Raises InputError if it is something else."""
        try:
            return cls(**json.loads(storage.read_bytes(uri)))
        except (ValueError, TypeError) as error:
            raise InputError(f"{uri}: does not say what failed ({error})") from None


def find_failure(uris: Iterable[str]) -> str | None:
    """The first of these URIs that names a failure in place of an output."""
    return next((uri for uri in uris if uri.endswith(f"/{FILE}")), None)


def attempt(step: str, place: Place, run: str, make: Callable[[], object]) -> str | None:
    """Make a step's outputs; the URI of what says how that failed, or None.

    What another task of the same run has tried in vain at this place is not tried again; a later run tries it anew.
    """
    uri = storage.join(place.uri, FILE)
    if run and storage.exists(uri) and Failure.read(uri).run == run:
        return uri
    try:
        make()
    except Exception as error:
        code = getattr(error, "exit_code", EmbedmillError.exit_code)
        if code == Interrupted.exit_code:
            raise
        if not isinstance(error, EmbedmillError | click.ClickException):
            traceback.print_exc()
        said = " ".join(str(error).split()) or type(error).__name__
        storage.write_bytes(uri, json_document(asdict(Failure(step, code, said, run))))
        return uri
    return None
