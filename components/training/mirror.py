"""Checkpoints below a URI, as an ``s3://`` prefix, from which a machine goes on that has none of its own.

A mirrored checkpoint is the folder of a local one, its files first and its marker last: without the marker it is none.
So what a killed upload left is never gone on from, and a folder that was fetched is a checkpoint as if made here.

A thread of its own copies: neither training nor the checkpoints here wait for a server that is slow or gone. While it
is busy with one set of checkpoints only the newest set is remembered, which has all that is to be there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from components.core import storage
from components.core.errors import InputError


class Mirror:
    """The mirror of one training's checkpoints; ``marker`` is the file that makes a folder one, ``say`` tells people.

    A copy that fails is said once and tried again with the next checkpoint.
    """

    def __init__(self, uri: str, marker: str, say: Callable[[str], None]) -> None:
        self._uri, self._marker, self._say = uri, marker, say
        self._said = False
        self._changed = threading.Condition()
        self._next: tuple[Sequence[Path], Collection[str]] | None = None
        self._copying: Sequence[Path] = ()
        self._busy = False

    def names(self) -> list[str]:
        """Names of the mirrored checkpoints, ascending. Raises InputError if they cannot be listed."""
        return sorted(path.parent.name for path in self._paths() if path.name == self._marker)

    def read_marker(self, name: str) -> bytes:
        """The marker of a checkpoint. Raises InputError if it cannot be read."""
        return storage.read_bytes(storage.join(self._uri, name, self._marker))

    def fetch(self, name: str, folder: Path) -> None:
        """Copy the files of a checkpoint into a folder. Raises InputError if they cannot be read."""
        storage.fetch(storage.join(self._uri, name), folder)

    def follow(self, folders: Sequence[Path], names: Collection[str]) -> Sequence[Path]:
        """Begin to copy those of these checkpoints that are not there yet, then to remove what is not among ``names``.

        Returns the folders that are being copied from an earlier call, which must stay until the next one.
        """
        with self._changed:
            self._next = folders, names
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name="mirror", daemon=True).start()
            return self._copying

    def settle(self) -> None:
        """Return when nothing is being copied, whether it could be or not."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)

    def remove(self, name: str) -> None:
        """Remove a checkpoint: its marker first, so that a part of it is none."""
        storage.remove(storage.join(self._uri, name, self._marker))
        storage.remove_tree(storage.join(self._uri, name))

    def clear(self) -> None:
        """Remove all of it."""
        with self._changed:
            self._next = None
        self.settle()
        try:
            storage.remove_tree(self._uri)
        except InputError as error:
            self._fail("checkpoints that nobody needs any more are still there", error)

    def _work(self) -> None:
        while True:
            with self._changed:
                if self._next is None:
                    self._busy, self._copying = False, ()
                    self._changed.notify_all()
                    return
                (self._copying, names), self._next = self._next, None
            try:
                self._hold(self._copying, names)
            except Exception as error:
                self._fail("a checkpoint is on this machine alone for now, the next one will try again", error)

    def _hold(self, folders: Sequence[Path], names: Collection[str]) -> None:
        there = self.names()
        for folder in folders:
            if folder.name not in there or self.read_marker(folder.name) != (folder / self._marker).read_bytes():
                self._upload(folder)
        for name in {path.parent.name for path in self._paths()}.difference(names):
            self.remove(name)

    def _upload(self, folder: Path) -> None:
        storage.remove(storage.join(self._uri, folder.name, self._marker))  # of another training
        files = sorted(folder.iterdir(), key=lambda path: (path.name == self._marker, path.name))
        for path in files:
            storage.upload(path, storage.join(self._uri, folder.name, path.name))

    def _paths(self) -> list[Path]:
        """Files below the URI, relative to it: the folder of a checkpoint and a file in it."""
        prefix = self._uri.rstrip("/") + "/"
        paths = (Path(info.uri.removeprefix(prefix)) for info in storage.list_files(self._uri))
        return [path for path in paths if len(path.parts) == 2 and path.parent.name.isdecimal()]

    def _fail(self, what: str, error: Exception) -> None:
        if not self._said:
            self._said = True
            self._say(f"{what} ({error})")
