"""Checkpoints: folders that count only with a COMPLETE marker, which holds the SHA-256 of every file in them.

A resumed run must end with the bytes of an undisturbed one, so a checkpoint holds all that the loop carries from step
to step, and a fingerprint of inputs, parameters and code: one from anything else is not resumed from. Nothing of ours
is unpickled: tensors are safetensors, the rest is JSON.

A thread writes while training goes on, from a copy of the state; a state that is large for the memory that is left is
written at once instead. The state is the same in every process, so the first one writes it, and reads it for as many as
like to go on from it: the others may be on machines that do not see its folder. A mirror takes it to where other
machines find it; a checkpoint that it could not take counts on this machine all the same.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from components.core.errors import InputError
from components.core.fingerprint import digest_bytes, digest_file, json_document
from components.core.memory import free_bytes
from components.training.distributed import World
from components.training.mirror import Mirror
from components.training.tensorfile import write_tensors

if TYPE_CHECKING:
    from torch import Tensor

_MARKER = "COMPLETE"
_TENSORS, _VALUES = "state.safetensors", "state.json"
_PARTIAL = ".partial-"
_COPY_SHARE = 0.25  # of the free memory: what a copy of the state may take while training goes on


@dataclass(frozen=True)
class State:
    """What the loop carries: tensors by name, and small values as a JSON object; all of it in the main process."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


class Cadence:
    """When a checkpoint is due: ``steps`` steps or ``minutes`` after the last one, whichever comes first.

    The clock decides only when, never what is trained.
    """

    def __init__(self, steps: int | None = None, minutes: float | None = None) -> None:
        self._steps, self._minutes = steps, minutes
        self.began(0)

    def began(self, done: int) -> None:
        """A checkpoint was begun after ``done`` steps, or training was."""
        self._last, self._at = done, time.monotonic()

    def due(self, done: int) -> bool:
        """Whether one is due after ``done`` steps."""
        late = self._minutes is not None and time.monotonic() - self._at >= 60 * self._minutes
        return late or (self._steps is not None and done - self._last >= self._steps)


class Checkpoints:
    """The checkpoints of one training under ``folder``; ``fingerprint`` says what they may be resumed by.

    The last ``keep`` are kept, and beside them the one that ``start`` was told is best. The main process of the
    ``world`` writes them, and copies them below ``mirror`` if there is one; ``say`` tells people what went wrong there.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        keep: int = 2,
        world: World | None = None,
        mirror: str | None = None,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.fingerprint = fingerprint
        self._folder, self._keep, self._world = folder, keep, world or World()
        self._mirror = None if mirror is None else Mirror(mirror, _MARKER, say)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, step: int, state: State, best: int | None = None) -> None:
        """Begin to save the state after ``step`` steps; ``best`` is the step whose checkpoint must outlive the others.

        The state may change as soon as this returns. An earlier checkpoint is finished first. Raises InputError if this
        or the earlier one cannot be written.
        """
        self._written()
        if not self._world.main:
            return
        # what lies on a GPU is not in this memory yet, so all of it is counted
        if sum(tensor.nbytes for tensor in state.tensors.values()) > _COPY_SHARE * free_bytes():
            self._save(step, state, best)
        else:
            values = json.loads(json.dumps(state.values))
            self._begin(self._save, step, State(_copied(state.tensors), values), best)

    def save(self, step: int, state: State, best: int | None = None) -> None:
        """``start``, and wait until the checkpoint counts, in the mirror too if that can be."""
        self.start(step, state, best)
        self.wait()

    def wait(self) -> None:
        """Return when nothing is being written or copied. Raises InputError if what was written last could not be."""
        self._written()
        if self._mirror is not None:
            self._mirror.settle()

    def _written(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if isinstance(error, OSError):
            raise InputError(f"{self._folder}: the checkpoint cannot be written ({error.strerror or error})") from error
        if error is not None:
            raise error

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish what is being written; after a failure also what is being copied, whatever came of either."""
        if kind is None:
            self._written()
            return
        if self._thread is not None:
            self._thread.join()
        if self._mirror is not None:
            self._mirror.settle()

    def latest(self) -> State | None:
        """The newest state whose marker vouches for every file and carries this fingerprint, or None.

        To be called before the first ``start``, in every process at once: all get what the main one finds, here or in
        the mirror. What a killed run left unfinished is removed.
        """
        found = self._newest() if self._world.main else None
        values = self._world.broadcast(None if found is None else dict(found.values))
        if values is None:
            return None
        return State(self._world.broadcast_tensors({} if found is None else found.tensors), values)

    def read(self, step: int) -> State:
        """The state after ``step`` steps, here or in the mirror, for the main process.

        Raises InputError unless its marker vouches for every file.
        """
        folder = self._folder / f"{step:08d}"
        if not (_vouched(folder, self.fingerprint) or self._fetched(folder)):
            raise InputError(f"{folder}: damaged or from another run; remove {self._folder} to train from the start")
        return _read(folder)

    def clear(self) -> None:
        """Remove all checkpoints: the step's outputs are committed."""
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._mirror is not None:
            self._mirror.clear()

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        self._thread = threading.Thread(target=self._noting_errors, args=(work, *arguments), daemon=True)
        self._thread.start()

    def _noting_errors(self, work: Callable[..., None], *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self._error = error

    def _save(self, step: int, state: State, best: int | None) -> None:
        partial = self._folder / f"{_PARTIAL}{step:08d}"
        try:
            partial.mkdir(parents=True, exist_ok=True)
            values = json.dumps(state.values, sort_keys=True).encode()
            digests = {_TENSORS: write_tensors(partial / _TENSORS, state.tensors), _VALUES: digest_bytes(values)}
            _write_durably(partial / _VALUES, values)
            marker = {"fingerprint": self.fingerprint, "sha256": digests}
            _write_durably(partial / _MARKER, json_document(marker))
            _sync(partial)
            target = self._folder / f"{step:08d}"
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            _sync(self._folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._prune(step, best)

    def _prune(self, step: int, best: int | None) -> None:
        """Remove all but the last ones of this run, and the best; what counts further is damaged or another run's."""
        finished = self._finished()
        own = [folder for folder in finished if int(folder.name) <= step and _fingerprint(folder) == self.fingerprint]
        kept = {*own[-self._keep :], *(folder for folder in own if int(folder.name) == best)}
        copying: Sequence[Path] = ()
        if self._mirror is not None:
            names = {folder.name for folder in kept}
            copying = self._mirror.follow(sorted(kept), names if best is None else {*names, f"{best:08d}"})
        for folder in finished:
            if folder not in kept and folder not in copying:
                (folder / _MARKER).unlink(missing_ok=True)  # first, so that a part of it is no checkpoint
                shutil.rmtree(folder)

    def _newest(self) -> State | None:
        for left in self._folder.glob(f"{_PARTIAL}*"):
            shutil.rmtree(left)
        here = {folder.name for folder in self._finished()}
        elsewhere = set(self._mirror.names()) if self._mirror is not None else set()
        for name in sorted(here | elsewhere, reverse=True):
            folder = self._folder / name
            if _vouched(folder, self.fingerprint) or self._fetched(folder):
                return _read(folder)
        return None

    def _fetched(self, folder: Path) -> bool:
        """Whether the mirror has this checkpoint, undamaged; then it is in its folder now."""
        mirror, name = self._mirror, folder.name
        if mirror is None or name not in mirror.names():
            return False
        if _parsed(mirror.read_marker(name)).get("fingerprint") != self.fingerprint:
            return False
        partial = self._folder / f"{_PARTIAL}{name}"
        mirror.fetch(name, partial)
        if not _vouched(partial, self.fingerprint):
            shutil.rmtree(partial)
            mirror.remove(name)  # or it would push out those of the run that goes on
            return False
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        return True

    def _finished(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("[0-9]*") if path.is_dir())


def _read(folder: Path) -> State:
    from safetensors.torch import load_file

    return State(load_file(folder / _TENSORS), json.loads((folder / _VALUES).read_bytes()))


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    return {name: tensor.detach().to(torch.device("cpu"), copy=True) for name, tensor in tensors.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _MARKER)


def _marker(folder: Path) -> dict[str, Any]:
    """What a checkpoint's marker says; nothing, if there is none that can be read."""
    try:
        return _parsed((folder / _MARKER).read_bytes())
    except OSError:
        return {}


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        marker = json.loads(data)
    except ValueError:
        return {}
    return marker if isinstance(marker, dict) else {}


def _fingerprint(folder: Path) -> str | None:
    return _marker(folder).get("fingerprint")


def _vouched(folder: Path, fingerprint: str) -> bool:
    marker = _marker(folder)
    if marker.get("fingerprint") != fingerprint:
        return False
    names = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    digests = marker.get("sha256", {})
    return names.keys() == digests.keys() and all(digest_file(names[name]) == digests[name] for name in names)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
