"""Checkpoints: folders that count only with a COMPLETE marker, which holds the SHA-256 of every file in them.

A resumed run must end with the bytes of an undisturbed one, so a checkpoint holds all that the loop carries from step
to step, and a fingerprint of inputs, parameters and code: one from anything else is not resumed from. Nothing of ours
is unpickled: tensors are safetensors, the rest is JSON.

A thread writes while training goes on, from a copy of the state; a state that is large for the memory that is left is
written at once instead. With several processes each writes its own files into one folder on a file system that all
share, and the first commits it once all have finished theirs; they meet in that folder alone, never in a collective,
which only the training thread may enter.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from components.core.errors import InputError
from components.core.fingerprint import digest_bytes, digest_file, json_document
from components.core.memory import free_bytes
from components.training.tensorfile import write_tensors

if TYPE_CHECKING:
    from torch import Tensor

_MARKER = "COMPLETE"
_SHARED, _VALUES = "state.safetensors", "state.json"
_COPY_SHARE = 0.25  # of the free memory: what a copy of the state may take while training goes on
_POLL_SECONDS = 0.02
_GIVE_UP_SECONDS = 5.0  # after a failure elsewhere, how long the others' files are waited for


@dataclass(frozen=True)
class State:
    """What the loop carries: tensors by name, and small values (position, log) as a JSON object.

    Both are the same in every process; ``own`` are the tensors that only this one has (a partition of the optimiser's
    state). ``write`` writes what an engine keeps in files of its own into a folder that all processes share; it is
    called in the training thread. ``folder`` is where such files lie in a state that was read.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    own: Mapping[str, Tensor] = field(default_factory=dict)
    write: Callable[[Path], None] | None = None
    folder: Path | None = None


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

    The last ``keep`` are kept, and beside them the one that ``start`` was told is best.
    """

    def __init__(self, folder: Path, fingerprint: str, keep: int = 2, rank: int = 0, size: int = 1) -> None:
        self.fingerprint = fingerprint
        self._folder, self._keep = folder, keep
        self._rank, self._size = rank, size
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._failed = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, step: int, state: State, best: int | None = None) -> None:
        """Begin to save the state after ``step`` steps; ``best`` is the step whose checkpoint must outlive the others.

        The state may change as soon as this returns. An earlier checkpoint is finished first. All processes call it
        for the same steps. Raises InputError if this or the earlier one cannot be written.
        """
        self.wait()
        partial = self._partial(step)
        partial.mkdir(parents=True, exist_ok=True)
        if state.write is not None:
            state.write(partial)
        # what lies on a GPU is not in this memory yet, so all of it is counted
        size = sum(tensor.nbytes for part in (state.tensors, state.own) for tensor in part.values())
        if size > _COPY_SHARE * free_bytes():
            self._save(step, state, best)
            self.wait()
            return
        values = json.loads(json.dumps(state.values))
        copied = replace(state, tensors=_copied(state.tensors), values=values, own=_copied(state.own))
        self._thread = threading.Thread(target=self._save, args=(step, copied, best), name="checkpoint", daemon=True)
        self._thread.start()

    def save(self, step: int, state: State, best: int | None = None) -> None:
        """``start``, and wait until the checkpoint counts."""
        self.start(step, state, best)
        self.wait()

    def wait(self) -> None:
        """Return when nothing is being written. Raises InputError if what was written last could not be."""
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
        """Finish what is being written; after a failure, wait no longer than a moment for other processes' files."""
        if kind is None:
            self.wait()
            return
        self._failed.set()
        if self._thread is not None:
            self._thread.join()

    def latest(self) -> State | None:
        """The newest state whose marker vouches for every file and carries this fingerprint, or None.

        To be called before the first ``start``, in every process; what a killed run left unfinished is removed.
        Raises InputError if the state holds parts of another number of processes.
        """
        if self._rank == 0:
            for left in self._folder.glob(".partial*"):
                shutil.rmtree(left)
        for folder in reversed(self._finished()):
            if _vouched(folder, self.fingerprint):
                return self._read(folder)
        return None

    def read(self, step: int) -> State:
        """The state after ``step`` steps. Raises InputError unless its marker vouches for every file."""
        folder = self._folder / f"{step:08d}"
        if not _vouched(folder, self.fingerprint):
            raise InputError(f"{folder}: damaged or from another run; remove {self._folder} to train from the start")
        return self._read(folder)

    def clear(self) -> None:
        """Remove all checkpoints: the step's outputs are committed."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _save(self, step: int, state: State, best: int | None) -> None:
        try:
            partial = self._partial(step)
            written = self._write_files(partial, state)
            # the name changes last, so that no half-written list is read
            _write_durably(partial / f"{_list_name(self._rank)}.part", json_document(written))
            (partial / f"{_list_name(self._rank)}.part").rename(partial / _list_name(self._rank))
            if self._rank == 0:
                self._commit(step, partial)
                self._prune(best)
            else:
                self._await(lambda: not partial.exists())
                if not (self._folder / f"{step:08d}" / _MARKER).exists():
                    raise InputError(f"{partial}: the first process could not finish this checkpoint")
        except BaseException as error:
            self._error = error
            if self._rank == 0:  # the others wait for this folder to go
                shutil.rmtree(partial, ignore_errors=True)

    def _write_files(self, partial: Path, state: State) -> dict[str, str]:
        written = {}
        if self._rank == 0:
            written[_SHARED] = write_tensors(partial / _SHARED, state.tensors)
            values = json.dumps(state.values, sort_keys=True).encode()
            _write_durably(partial / _VALUES, values)
            written[_VALUES] = digest_bytes(values)
        if state.own:
            name = _own_name(self._rank)
            written[name] = write_tensors(partial / name, state.own)
        return written

    def _commit(self, step: int, partial: Path) -> None:
        digests: dict[str, str] = {}
        for rank in range(self._size):
            listed = partial / _list_name(rank)
            self._await(listed.exists)
            digests |= json.loads(listed.read_bytes())
            listed.unlink()
        for path in _files(partial):  # those that an engine wrote by itself
            name = path.relative_to(partial).as_posix()
            if name not in digests:
                _sync(path)
                digests[name] = digest_file(path)
        marker = {"fingerprint": self.fingerprint, "processes": self._size, "sha256": digests}
        _write_durably(partial / _MARKER, json_document(marker))
        _sync(partial)
        target = self._folder / f"{step:08d}"
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _sync(self._folder)

    def _await(self, met: Callable[[], bool]) -> None:
        deadline = None
        while not met():
            if self._failed.is_set():
                deadline = deadline or time.monotonic() + _GIVE_UP_SECONDS
                if time.monotonic() > deadline:
                    raise InputError(f"{self._folder}: another process ended before its part was written")
            time.sleep(_POLL_SECONDS)

    def _prune(self, best: int | None) -> None:
        finished = self._finished()
        kept = {*finished[-self._keep :], *(folder for folder in finished if int(folder.name) == best)}
        for folder in finished:
            if folder not in kept:
                (folder / _MARKER).unlink(missing_ok=True)  # first, so that a part of it is no checkpoint
                shutil.rmtree(folder)

    def _read(self, folder: Path) -> State:
        from safetensors.torch import load_file

        processes = json.loads((folder / _MARKER).read_bytes())["processes"]
        if processes != self._size and any(folder.glob("process-*")):
            raise InputError(
                f"{folder}: holds the parts of {processes} processes, and there are {self._size} now; "
                f"start as many, or remove {self._folder}"
            )
        own = folder / _own_name(self._rank)
        return State(
            load_file(folder / _SHARED),
            json.loads((folder / _VALUES).read_bytes()),
            load_file(own) if own.exists() else {},
            folder=folder,
        )

    def _partial(self, step: int) -> Path:
        return self._folder / f".partial-{step:08d}"

    def _finished(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("[0-9]*") if path.is_dir())


def _own_name(rank: int) -> str:
    return f"process-{rank:04d}.safetensors"


def _list_name(rank: int) -> str:
    return f".written-{rank:04d}"


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch

    return {name: tensor.detach().to(torch.device("cpu"), copy=True) for name, tensor in tensors.items()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _MARKER)


def _vouched(folder: Path, fingerprint: str) -> bool:
    try:
        marker = json.loads((folder / _MARKER).read_bytes())
    except (OSError, ValueError):
        return False
    if not isinstance(marker, dict) or marker.get("fingerprint") != fingerprint:
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
