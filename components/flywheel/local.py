"""Training on a version through DVC, in the project's folder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.core import storage
from components.core.reproduce import ChainFailed, reproduce
from components.flywheel.poller import Log
from components.flywheel.versions import Claim, Store

OWNER = ".embedmill/flywheel/owner"
CURRENT = "data/feedback/current.json"
REGISTERED = Path("reports/register/version.json")


@dataclass(frozen=True)
class LocalChain:
    """The chain in this folder, which does nothing a second time for data that it has trained on."""

    reproduce: Callable[[], None] = reproduce

    def owner(self) -> str:
        """A random id of the project's folder, made on first use."""
        storage.create_bytes(OWNER, uuid.uuid4().hex.encode())
        return storage.read_bytes(OWNER).decode()

    def train(self, store: Store, claim: Claim, log: Log, resumed: bool) -> bool:
        """Run the chain on the version to its end. Raises ChainFailed."""
        if resumed:
            log(f"batch {claim.number} was left unfinished; going on with it")
        storage.write_bytes(CURRENT, store.current(claim.version))
        try:
            self.reproduce()
        except ChainFailed as error:
            message = f"batch {claim.number}: {error}; it stays claimed, and the next poll goes on"
            raise ChainFailed(message, error.exit_code) from None
        registered = json.loads(REGISTERED.read_bytes()) if REGISTERED.exists() else {}
        model_version, gate = registered.get("version"), registered.get("gate")
        store.finish(claim, model_version, gate)
        log(f"batch {claim.number}: done, model version {model_version}, gate {gate}")
        return True
