"""Which datasets a ledger is read from: the chain's own, a step's by its name, or any by its place."""

from __future__ import annotations

from collections.abc import Sequence

from components import chain
from components.core import storage
from components.core.errors import InputError
from components.core.manifest import MANIFEST, Dataset


def open_datasets(names: Sequence[str]) -> list[Dataset]:
    """Open the named datasets (a step's name means its output), or without names the chain's finished ones in order.

    Raises InputError if one is no finished dataset, and says which there are.
    """
    known = chain_datasets()
    there = {step: uri for step, uri in known.items() if storage.exists(storage.join(uri, MANIFEST))}
    listed = ", ".join(f"{step} ({uri})" for step, uri in there.items()) or "none; run `embedmill run`"
    if not names and not there:
        raise InputError(f"no finished dataset in {', '.join(known.values())}; run `embedmill run` or name one")
    uris = [known.get(name, name) for name in names] or list(there.values())
    for uri in uris:
        if not storage.exists(storage.join(uri, MANIFEST)):
            raise InputError(f"{uri}: no {MANIFEST}, so this is no finished dataset; finished here: {listed}")
    return [Dataset.open(uri) for uri in uris]


def chain_datasets() -> dict[str, str]:
    """The dataset that each step of the chain keeps its rows in, by the step's name."""
    outputs = {step.name: [port.default for port in step.outputs if port.kind == "dataset"] for step in chain.steps()}
    return {name: uris[0] for name, uris in outputs.items() if uris}
