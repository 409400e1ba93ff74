"""Batches of rows in which no text repeats, filled from a shuffled stream at millions of rows a second.

The rule is plain: the rows enter in order, those first that have waited; a row whose text is in the open batch already
waits for the next one. Read literally it looks at every row that waits for every batch. Here stretches of batches
without a clash are found by one sort and copied whole, and only a batch with a clash, or one that rows wait for, is
filled row by row: the same batches, tens of times as fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

import numpy as np
import numpy.typing as npt

_WINDOW = 64  # batches whose rows are sorted by cost together
_AHEAD = 1 << 18  # rows looked over at once for a clash
_ROWS = 4096  # rows read at once where they are looked at one by one
_PLACE = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class Filled:
    """Batches laid end to end: batch b holds ``rows[edges[b]:edges[b + 1]]``; rows int32, edges int64 [B + 1]."""

    rows: npt.NDArray[np.int32]
    edges: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, batch: int) -> npt.NDArray[np.int64]:
        return self.rows[self.edges[batch] : self.edges[batch + 1]].astype(np.int64)

    def shuffled(self, rng: np.random.Generator) -> Filled:
        """The same batches in a random order."""
        order = rng.permutation(len(self))
        sizes = np.diff(self.edges)[order]
        edges = edges_of(sizes)
        within = np.arange(edges[-1], dtype=np.int64) + np.repeat(self.edges[:-1][order] - edges[:-1], sizes)
        return Filled(self.rows[within], edges)


def fill_batches(
    texts: npt.NDArray[np.integer[Any]],
    most: int,
    rng: np.random.Generator,
    cost: npt.NDArray[np.integer[Any]] | None = None,
    budget: int = 0,
) -> Filled:
    """Full batches of shuffled rows in which no text id repeats; the last rows, which fill none, are left over.

    ``texts``: integers [N, K]. A row whose text is already in the open batch waits for the next one. A batch is full
    at ``most`` rows. With ``cost`` [N], what each row takes of a ``budget``, it is also full when the next row would
    exceed the budget, which no single row may, and rows of similar cost come together.
    """
    order = rng.permutation(len(texts)).astype(np.int32)
    if cost is not None:
        order = _alike_together(order, cost, most, budget)
    if texts.shape[1] == 0 and cost is None:
        size = min(most, len(order))
        count = len(order) // size if size else 0
        return Filled(order[: count * size], np.arange(count + 1, dtype=np.int64) * size)
    return _Filler(order, texts, most, cost, budget).run()


class _Filler:
    """Fills batches from a stream of rows; positions below are places in the stream.

    Waiting rows are grouped by a text that kept them out: while the first of a group cannot enter because of that text,
    none of the others can, so a batch looks at few of them however many there are.
    """

    def __init__(
        self,
        order: npt.NDArray[np.int32],
        texts: npt.NDArray[np.integer[Any]],
        most: int,
        cost: npt.NDArray[np.integer[Any]] | None,
        budget: int,
    ) -> None:
        self.order, self.texts, self.most = order, texts, most
        self.budget = most if cost is None else budget
        self.cost = None if cost is None else cost[order]
        self.least = 1 if cost is None else max(1, int(cost.min(initial=budget)))  # with less room no row fits
        self.before = None if cost is None else edges_of(cost[order])  # cost of all rows before a position
        self.nearest = nearest_clash(texts, order)
        self.position = 0
        self.groups: dict[int, list[int]] = {}  # text → heap of the positions that wait because of it
        self.heads: list[tuple[int, int]] = []  # heap of (first position of a group, its text); may hold stale entries
        self.keys: dict[int, list[int]] = {}  # waiting position → its texts
        self.waiting_cost = 0

    def run(self) -> Filled:
        """The batches."""
        rows = np.empty(len(self.order), dtype=np.int32)
        sizes: list[npt.NDArray[np.int64]] = []
        filled, ahead = 0, 16
        while self.position < len(self.order) or self._enough_wait():
            ends = self._clean(ahead) if not self.keys else np.zeros(0, dtype=np.int64)
            if len(ends):
                ahead = min(2 * ahead, max(1, _AHEAD // self.most)) if len(ends) == ahead else max(16, 2 * len(ends))
                count = int(ends[-1]) - self.position
                rows[filled : filled + count] = self.order[self.position : int(ends[-1])]
                sizes.append(np.diff(ends, prepend=self.position))
                filled, self.position = filled + count, int(ends[-1])
                continue
            chosen, full = self._one_batch()
            if not full and sizes:
                break
            rows[filled : filled + len(chosen)] = self.order[chosen]
            sizes.append(np.array([len(chosen)]))
            filled += len(chosen)
            if not full:
                break
        return Filled(rows[:filled].copy(), edges_of(np.concatenate([np.zeros(0, dtype=np.int64), *sizes])))

    def _enough_wait(self) -> bool:
        return self.waiting_cost > self.budget - self.least or len(self.keys) >= self.most

    def _clean(self, ahead: int) -> npt.NDArray[np.int64]:
        """Ends of the next full batches, up to ``ahead`` of them, before one in which a text repeats."""
        if self.before is None:
            count = min(ahead, (len(self.order) - self.position) // self.most)
            starts = self.position + self.most * np.arange(count, dtype=np.int64)
            last = self.position + count * self.most
            latest = self.nearest[self.position : last].reshape(count, self.most).max(axis=1, initial=-1)
            clash = latest >= starts
            return (starts + self.most)[: int(clash.argmax()) if clash.any() else count]
        ends: list[int] = []
        start = self.position
        while len(ends) < ahead:
            fitting = int(np.searchsorted(self.before, self.before[start] + self.budget, side="right")) - 1
            end = min(fitting, start + self.most)
            if end >= len(self.order) or self.nearest[start:end].max() >= start:
                break
            ends.append(end)
            start = end
        return np.array(ends, dtype=np.int64)

    def _one_batch(self) -> tuple[list[int], bool]:
        """Positions of the next batch, those that waited first, and whether it is full."""
        seen: set[int] = set()
        blocked: set[int] = set()  # texts whose groups have nothing more to give to this batch
        chosen, room = self._from_waiting(seen, blocked)
        while room >= self.least and len(chosen) < self.most and self.position < len(self.order):
            part = self.order[self.position : self.position + min(self.most - len(chosen), _ROWS)]
            for keys in self.texts[part].tolist():
                cost = self._cost(self.position)
                clash = next((key for key in keys if key in seen), None)
                if clash is not None:
                    self._wait(self.position, keys, clash)
                    self.waiting_cost += cost
                    blocked.add(clash)
                elif cost > room:
                    room = 0
                    break
                else:
                    seen.update(keys)
                    chosen.append(self.position)
                    room -= cost
                self.position += 1
        for key in blocked & self.groups.keys():
            heappush(self.heads, (self.groups[key][0], key))
        return chosen, room < self.least or len(chosen) == self.most

    def _from_waiting(self, seen: set[int], blocked: set[int]) -> tuple[list[int], int]:
        """Positions that have waited and enter the batch, and the room that is left; none if the next does not fit."""
        chosen: list[int] = []
        room = self.budget
        while room >= self.least and len(chosen) < self.most and self.heads:
            place, key = self.heads[0]
            group = self.groups.get(key)
            if group is None or group[0] != place:  # a stale entry: the row has entered, or waits for another text
                heappop(self.heads)
                continue
            clash = next((each for each in self.keys[place] if each in seen), None)
            if clash is None and self._cost(place) > room:
                return chosen, 0
            heappop(self.heads)
            if clash is not None:
                blocked.add(clash)
            if clash == key:
                continue
            heappop(group)
            if not group:
                del self.groups[key]
            keys = self.keys.pop(place)
            if clash is None:
                seen.update(keys)
                chosen.append(place)
                room -= self._cost(place)
                self.waiting_cost -= self._cost(place)
                blocked.add(key)
            else:
                self._wait(place, keys, clash)
                if group:
                    heappush(self.heads, (group[0], key))
        return chosen, room

    def _wait(self, place: int, keys: list[int], clash: int) -> None:
        self.keys[place] = keys
        heappush(self.groups.setdefault(clash, []), place)

    def _cost(self, position: int) -> int:
        return 1 if self.cost is None else int(self.cost[position])


def nearest_clash(texts: npt.NDArray[np.integer[Any]], order: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """For each place in ``order`` [N], the last place before it whose row shares a text with it, else −1."""
    nearest = np.full(len(order), -1, dtype=np.int32)
    if not texts.size:
        return nearest
    codes = texts if int(texts.max()) < 1 << 32 else np.unique(texts, return_inverse=True)[1].reshape(texts.shape)
    place = np.empty(len(order), dtype=np.uint64)
    place[order] = np.arange(len(order), dtype=np.uint64)
    met = (codes.astype(np.uint64) << np.uint64(32) | place[:, None]).ravel()
    met.sort()
    same = (met[1:] >> np.uint64(32)) == (met[:-1] >> np.uint64(32))
    same &= met[1:] != met[:-1]  # a row that has a text twice
    later, earlier = (met[1:][same] & _PLACE).astype(np.int32), (met[:-1][same] & _PLACE).astype(np.int32)
    np.maximum.at(nearest, later, earlier)
    return nearest


def _alike_together(
    order: npt.NDArray[np.int32], cost: npt.NDArray[np.integer[Any]], most: int, budget: int
) -> npt.NDArray[np.int32]:
    """``order`` with rows of similar cost beside one another, within windows of some batches, which stay shuffled.

    Every second window descends, so that the batch between two windows is no mixture of the longest and the shortest.
    """
    size = max(1, int(_WINDOW * min(most, budget / max(1.0, float(cost.mean())))))
    window = np.arange(len(order)) // size
    rising = np.where(window % 2, -1, 1) * cost[order].astype(np.int64)
    return order[np.lexsort((rising, window))]


def edges_of(sizes: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Where each part begins, and where the last one ends, if parts of these ``sizes`` [B] lie end to end [B + 1]."""
    edges = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=edges[1:])
    return edges
