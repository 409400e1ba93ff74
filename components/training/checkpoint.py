"""Checkpoints: folders that count only with a COMPLETE marker, which holds the SHA-256 of every file in them.

A resumed run must end with the bytes of an undisturbed one, so a checkpoint holds all that the loop carries from step
to step (weights, optimiser moments, the log), and a fingerprint of inputs, parameters and code: one from anything else
is not resumed from. Nothing is unpickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.fingerprint import digest_file

if TYPE_CHECKING:
    from torch import Tensor

_KEEP = 2


@dataclass(frozen=True)
class State:
    """What the loop carries: tensors by name, and small values (position, log) as a JSON object."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one training step under ``folder``; ``fingerprint`` says what they may be resumed by."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._fingerprint = fingerprint

    def save(self, step: int, state: State) -> None:
        """Commit the state after ``step`` steps by a rename, then remove all but the last two checkpoints."""
        from safetensors.torch import save_file

        partial = self._folder / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(dict(state.tensors), partial / "state.safetensors")
        (partial / "state.json").write_text(json.dumps(state.values, sort_keys=True), encoding="utf-8")
        marker = {"fingerprint": self._fingerprint, "sha256": _digests(partial)}
        (partial / "COMPLETE").write_text(json.dumps(marker, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        target = self._folder / f"{step:08d}"
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in self._finished()[:-_KEEP]:
            shutil.rmtree(old)

    def latest(self) -> State | None:
        """The newest state whose marker vouches for every file and carries this fingerprint, or None."""
        from safetensors.torch import load_file

        for folder in reversed(self._finished()):
            if _vouched(folder, self._fingerprint):
                values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                return State(load_file(folder / "state.safetensors"), values)
        return None

    def clear(self) -> None:
        """Remove all checkpoints: the step's outputs are committed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _finished(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("[0-9]*") if path.is_dir())


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: digest_file(path) for path in sorted(folder.iterdir()) if path.name != "COMPLETE"}


def _vouched(folder: Path, fingerprint: str) -> bool:
    try:
        marker = json.loads((folder / "COMPLETE").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(marker == {"fingerprint": fingerprint, "sha256": _digests(folder)})
