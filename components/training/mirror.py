"""Checkpoints below a URI, as an ``s3://`` prefix, from which a machine goes on that has none of its own.

A mirrored checkpoint is the folder of a local one, its files first and its marker last: without the marker it is none.
So what a killed upload left is never gone on from, and a folder that was fetched is a checkpoint as if made here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from components.core import storage
from components.core.errors import InputError


class Mirror:
    """The mirror of one training's checkpoints; ``marker`` is the file that makes a folder one, ``say`` tells people.

    An upload that fails is said once and tried again with the next checkpoint: training goes on.
    """

    def __init__(self, uri: str, marker: str, say: Callable[[str], None]) -> None:
        self._uri, self._marker, self._say = uri, marker, say
        self._said = False

    def names(self) -> list[str]:
        """Names of the mirrored checkpoints, ascending. Raises InputError if they cannot be listed."""
        return sorted(path.parent.name for path in self._paths() if path.name == self._marker)

    def read_marker(self, name: str) -> bytes:
        """The marker of a checkpoint. Raises InputError if it cannot be read."""
        return storage.read_bytes(storage.join(self._uri, name, self._marker))

    def fetch(self, name: str, folder: Path) -> None:
        """Copy the files of a checkpoint into a folder. Raises InputError if they cannot be read."""
        storage.fetch(storage.join(self._uri, name), folder)

    def hold(self, folders: Iterable[Path], names: Collection[str]) -> None:
        """Upload those of these checkpoints that are not there yet, then remove what is not among ``names``."""
        try:
            there = self.names()
            for folder in folders:
                if folder.name not in there or self.read_marker(folder.name) != (folder / self._marker).read_bytes():
                    self._upload(folder)
            for name in {path.parent.name for path in self._paths()}.difference(names):
                self.remove(name)
        except InputError as error:
            self._fail("a checkpoint is on this machine alone for now, the next one will try again", error)

    def remove(self, name: str) -> None:
        """Remove a checkpoint: its marker first, so that a part of it is none."""
        storage.remove(storage.join(self._uri, name, self._marker))
        storage.remove_tree(storage.join(self._uri, name))

    def clear(self) -> None:
        """Remove all of it."""
        try:
            storage.remove_tree(self._uri)
        except InputError as error:
            self._fail("checkpoints that nobody needs any more are still there", error)

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

    def _fail(self, what: str, error: InputError) -> None:
        if not self._said:
            self._said = True
            self._say(f"{what} ({error})")
