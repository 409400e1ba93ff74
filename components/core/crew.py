"""Tasks that write a file each, done by one process, or shared by pods that meet in storage alone.

A pod does its own tasks, then waits until the files of all others are there. Every few seconds it gives a sign of life;
the tasks of one that gives none, because it was lost or never began, are dealt among those that do, so that any one of
them would come to the end alone. Where two do the same task nothing is lost: files are written whole, and are equal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType

from components.core import storage
from components.core.errors import InputError
from components.core.execute import map_ordered
from components.core.part import Part
from components.core.progress import Progress

BEAT_SECONDS = 5.0
# Between two looks at what the others have done.
LOOK_SECONDS = 2.0
# Without a sign of life another takes over. By this pod's clock alone: a sign counts when it differs from the last one.
SILENT_SECONDS = 30.0


class Crew:
    """What does the tasks of a step: `workers` workers of this process, with `part` as one of `part.count` pods.

    Entered with `with`; `signs` is the folder for signs of life, which all pods of a stage share.
    """

    def __init__(
        self, workers: int, progress: Callable[[str, float, str], Progress], part: Part | None = None, signs: str = ""
    ) -> None:
        self.workers = workers
        self._progress, self._part, self._signs = progress, part, signs
        self._heard: dict[int, tuple[str, float]] = {}
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Crew:
        if self._part:
            now = time.monotonic()
            self._heard = dict.fromkeys(range(1, self._part.count + 1), ("", now))
            self._give_sign()
            self._beating.start()
        return self

    def finish(
        self,
        label: str,
        work: Callable[[int], None],
        files: Sequence[str],
        sizes: Sequence[float] | None = None,
        unit: str = "tasks",
        workers: int | None = None,
        wait: bool = True,
    ) -> None:
        """Come to the end of a phase: `work(number)` writes `files[number]`, all in one folder, if it is not there yet.

        `sizes` are shares of the progress, in `unit`. One worker is this process itself; for more `work` must pickle.
        Without `wait` a pod does its own tasks, and goes.
        """
        sizes = sizes or [1.0] * len(files)
        left = set(range(len(files)))
        with self._progress(label, sum(sizes), unit) as bar:
            while True:
                missing = _missing(files)
                bar.advance(sum(sizes[number] for number in left.difference(missing)))
                left.intersection_update(missing)
                mine = self._mine(missing)
                do = partial(_do, work, files, self._part is not None)
                for number in map_ordered(do, mine, min(workers or self.workers, max(1, len(mine)))):
                    bar.advance(sizes[number])
                    left.discard(number)
                if not left or not wait:
                    return
                if not mine:
                    time.sleep(LOOK_SECONDS)

    def _mine(self, missing: Sequence[int]) -> list[int]:
        part = self._part
        if part is None or not missing:
            return list(missing)
        alive = self._alive(part)

        def doer(number: int) -> int:
            owner = part.owner(number)
            return owner if owner in alive else alive[number // part.count % len(alive)]

        return [number for number in missing if doer(number) == part.number]

    def _alive(self, part: Part) -> list[int]:
        """The numbers of the parts that have given a sign lately, this one among them, sorted."""
        now = time.monotonic()
        found = {info.uri: info.digest_hint for info in storage.list_files(self._signs)}
        for number, (before, _) in self._heard.items():
            sign = found.get(self._sign(number), "")
            if sign not in ("", before):
                self._heard[number] = sign, now
        silent = {number for number, (_, heard) in self._heard.items() if now - heard >= SILENT_SECONDS}
        return sorted(self._heard.keys() - silent | {part.number})

    def _sign(self, number: int) -> str:
        return storage.join(self._signs, f"{number:05d}")

    def _give_sign(self) -> None:
        assert self._part
        storage.write_bytes(self._sign(self._part.number), str(time.time_ns()).encode())

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(InputError):  # storage that fails now may answer the next time
                self._give_sign()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part:
            self._ended.set()
            self._beating.join(BEAT_SECONDS)
            with suppress(InputError):
                storage.remove(self._sign(self._part.number))


def _missing(files: Sequence[str]) -> list[int]:
    """The numbers of the files that are not there; all lie in one folder."""
    if not files:
        return []
    there = {info.uri for info in storage.list_files(files[0].rpartition("/")[0])}
    return [number for number, uri in enumerate(files) if uri not in there]


def _do(work: Callable[[int], None], files: Sequence[str], shared: bool, number: int) -> int:
    if not (shared and storage.exists(files[number])):
        work(number)
    return number
