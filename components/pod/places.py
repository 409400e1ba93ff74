"""Where a step's outputs lie in the store: a prefix named by all that decides them.

Runs that ask for the same thing find it made, a retried pod finds what the one before it finished, and no two runs that
differ write to one place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.core import storage
from components.core.errors import InputError
from components.core.fingerprint import digest_json, json_document
from components.core.step import Port, Step

FINISHED = "finished.json"
DIGEST_CHARACTERS = 16


@dataclass(frozen=True)
class Place:
    """The prefix `root`/step/digest, and what was asked for there."""

    uri: str
    asked: Mapping[str, Any]

    @classmethod
    def of(cls, root: str, step: Step, asked: Mapping[str, Any]) -> Place:
        """The place for what is asked of a step: `asked` is all that decides its outputs, as JSON values."""
        return cls(storage.join(root, step.name, digest_json(asked)[:DIGEST_CHARACTERS]), asked)

    @property
    def name(self) -> str:
        """The last part of the prefix: a short name for this very work."""
        return self.uri.rpartition("/")[2]

    def port(self, port: Port) -> str:
        """Where an output lies: under the last name that it has in the project's folder."""
        return storage.join(self.uri, port.default.rpartition("/")[2])

    def outputs(self, step: Step) -> dict[str, str]:
        """Every output that a step always makes, by port."""
        return {port.name: self.port(port) for port in step.outputs if not port.optional}

    @property
    def checkpoints(self) -> str:
        """Where a training step keeps its checkpoints meanwhile."""
        return storage.join(self.uri, "checkpoints")

    def finished(self) -> bool:
        """Whether an earlier pod has made everything here."""
        uri = storage.join(self.uri, FINISHED)
        if not storage.exists(uri):
            return False
        try:
            asked = json.loads(storage.read_bytes(uri))
        except ValueError:
            return False
        if asked != dict(self.asked):  # a digest that two questions share, or a file that somebody put there
            raise InputError(f"{uri}: is not about what is asked for here; remove the prefix {self.uri}")
        return True

    def finish(self) -> None:
        """Everything is made. What was asked for stays beside it, for people to read."""
        storage.write_bytes(storage.join(self.uri, FINISHED), json_document(dict(self.asked)))
