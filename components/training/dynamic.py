"""Dynamic hard-negative mining: negatives that have become easy give way to others while training goes on.

Conan-embedding, section 3.3. A negative mined once stops being hard as the weights move. So every item (a query with
its positive) remembers the mean cosine that its present negatives had when they were new. At each check, an item with
``ratio · score < first score`` and ``|score| < ceiling`` gets others: replacement i takes the ranks from
``(i − 1) · n + offset`` to ``i · n + offset`` of the item's list of candidates, n the number of negatives in use. When
those ranks reach beyond the list, the item is mined again with the weights of the next step.

What is left open there and decided here:
- The list holds no known positive, nor what scores like the positive: `mining.rank` leaves them out, so its ranks are
  ranks of what may be a negative. The first negatives are its first n.
- Hard negatives that a record names lead its list, so they are the first ones in use. Without replacement they all
  stay, and the mined ones follow them.
- A window that only its first candidates fill is not used; the new list counts as the first replacement. A new list
  too short for its window gives its last n candidates.
- Cosines are those that the loss computes anyway: at the first of its Matryoshka dimensions that is not below the
  number that candidates are ranked by, else at its last; in the precision of its products.
- A mean below zero is always easy: then ``ratio · score < score``.

Mining again runs in a thread, on a copy of the weights, and its result is taken at the next check, which waits for it
if it must: nothing depends on how fast the thread was. A checkpoint holds the result, so it waits too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from components.core import storage
from components.training.corpus import ABSENT, Rows
from components.training.distributed import World
from components.training.lanes import alone
from components.training.mining import Candidates, Known, Ranking, Vectors, Window, rank
from components.training.tokens import PASSAGE, QUERY, SidedTokens, Texts
from components.training.trainee import Frozen, placed

if TYPE_CHECKING:
    from torch import Tensor

VectorsOf = Callable[[Rows, int, int], Vectors]
"""Unit vectors float32 [T, dims] of texts: store rows [T], the side they are read on, leading dimensions."""

_TEXTS = 1 << 16  # texts whose tokens are held at once

_HEADER = "step,kind,positive,negative,replaced,left"
_NONE: Candidates = np.zeros((0, 0), dtype=np.int32)
_FRESH = np.float32(np.nan)  # no score has been seen since the negatives were placed


def vectors_of(frozen: Frozen, tokens: SidedTokens, world: World | None = None) -> VectorsOf:
    """What a model makes of texts, by their rows and side; with a ``world`` each process makes a part for all.

    The processes must then ask for the same at the same time, so not from a thread.
    """

    def vectors(rows: Rows, side: int, dims: int) -> Vectors:
        vectors_TD = np.empty((len(rows), dims), dtype=np.float32)
        for start in range(0, len(rows), _TEXTS):
            texts = Texts.of(rows[start : start + _TEXTS], side)
            vectors_TD[start : start + _TEXTS] = placed(frozen, tokens, dims, world or World(), texts)
        return vectors_TD

    return vectors


@dataclass(frozen=True)
class Rule:
    """When an item's negatives are replaced, and by which ranks."""

    check_every: int = 100
    ratio: float = 1.15
    ceiling: float = 0.8
    offset: int = 10


@dataclass(frozen=True)
class Pool:
    """What negatives are mined from: queries and positives of the items [N], passages [P] ascending; store rows."""

    queries: Rows
    positives: Rows
    passages: Rows
    window: Window
    dims: int
    device: str = "cpu"

    @cached_property
    def known(self) -> Known:
        """The positives of every query text."""
        return Known(self.queries, self.positives)

    def rank(self, items: Rows, vectors: VectorsOf, advance: Callable[[int], None] | None = None) -> Ranking:
        """Candidates of these items, with the vectors of a model as it is."""
        query_I = self.queries[items]
        return rank(
            vectors(query_I, QUERY, self.dims),
            self.positives[items],
            vectors(self.passages, PASSAGE, self.dims),
            self.passages,
            query_I,
            self.window,
            self.known,
            self.device,
            advance,
        )


class HardNegatives:
    """The hard negatives of N items: ``count`` mined ones each, shared out over ``roles`` (``count`` a role).

    With a ``rule`` they are replaced when they have become easy; without one they stay, after all that ``given_NK``
    names. Either `begin` or `load` comes first. All processes hold the same state and call everything at the same
    steps; they share the work of mining again. What `of` returns changes in `finish_step` alone.
    """

    def __init__(
        self,
        pool: Pool,
        count: int,
        rule: Rule | None = None,
        given_NK: Rows | None = None,
        roles: int = 1,
        world: World | None = None,
    ) -> None:
        items = len(pool.queries)
        self._pool, self._rule, self._roles, self._world = pool, rule, roles, world or World()
        self._count = count * roles
        given_NK = np.zeros((items, 0), dtype=np.int64) if given_NK is None else given_NK
        self._given_NK = np.where(pool.known.holds(pool.queries, given_NK), ABSENT, given_NK).astype(np.int32)
        self._present_NK = np.zeros((items, 0), dtype=np.int32)
        self._candidate_NR = np.zeros((items, 0), dtype=np.int32)
        self._length_N = np.zeros(items, dtype=np.int32)
        self._turn_N = np.zeros(items, dtype=np.int32)  # replacements out of the present list
        self._first_N = np.full(items, _FRESH)
        self._score_N = np.full(items, _FRESH)
        self._waiting = np.zeros(0, dtype=np.int64)  # items that are being mined again
        self._mining: Future[Candidates] | None = None  # this process's share of them
        self._mined: Candidates | None = None
        self._minings = self._replaced = self._replaced_in_all = 0
        self._left = 0.0  # at the last check
        self._seen: tuple[Rows, Vectors, Vectors] | None = None
        self._log: list[tuple[float, ...]] = []

    @property
    def _every(self) -> int:
        return (self._rule or Rule()).check_every

    @property
    def dims(self) -> int:
        """Leading dimensions that candidates are ranked by; the cosines that `observe` is told are of about as many."""
        return self._pool.dims

    @property
    def kind(self) -> str:
        """``dynamic`` with a rule, else ``standard``."""
        return "dynamic" if self._rule else "standard"

    def __len__(self) -> int:
        return len(self._turn_N)

    def begin(self, vectors: VectorsOf, advance: Callable[[int], None] | None = None) -> Ranking:
        """Mine every item; the ranking says how. ``advance`` is told of queries done."""
        ranking = self._pool.rank(np.arange(len(self._turn_N)), vectors, advance)
        if self._rule is None:
            self._list(ranking.candidates)
            mined_NK = _wide(ranking.candidates, self._count)[:, : self._count]
            self._present_NK = np.concatenate([self._given_NK, mined_NK], axis=1)
        else:
            self._list(_led(self._given_NK, ranking.candidates))
            self._present_NK = _wide(self._candidate_NR, self._count)[:, : self._count].copy()
        return ranking

    def of(self, rows: Rows, role: int | None = None) -> Rows:
        """Present negatives of items [b, K], store rows with ``ABSENT`` pads; of one role only its own."""
        present_bK = self._present_NK[rows]
        return (present_bK if role is None else present_bK[:, role :: self._roles]).astype(np.int64)

    def observe(self, rows: Rows, score_2b: Tensor) -> None:
        """Note a step's scores: cosine of each item's positive, mean cosine of its present negatives (NaN: has none).

        Called once a step in every process; the rows differ, and the negatives are those of all roles. Each item is
        scored by one process, the others have zeros.
        """
        positive_b, negative_b = self._world.sum_(score_2b).cpu().numpy()
        self._seen = rows, positive_b, negative_b

    def finish_step(self, step: int, snapshot: Callable[[], VectorsOf]) -> dict[str, float]:
        """After ``step`` steps: keep the scores, and at a check replace what has become easy; then the `figures`.

        ``snapshot()`` gives the vectors of a copy of the weights as they are now.
        """
        positive, negative = self._keep_scores()
        replaced, check = 0, step % self._every == 0
        if self._rule is not None:
            if len(self._waiting) and self._mining is None and self._mined is None:
                self._start_mining(snapshot())
            if check:
                replaced = self._take_mined() + self._replace_easy(self._rule)
                self._left = self._counted()
                self._replaced, self._replaced_in_all = replaced, self._replaced_in_all + replaced
        if check or not np.isnan(positive):
            self._log.append((step, positive, negative, replaced, self._left))
        return self.figures() if check else {}

    def figures(self) -> dict[str, float]:
        """Mean scores since the last check, items replaced at it and in all, candidates left, minings."""
        table = np.array(self._log[-self._every :], dtype=np.float64).reshape(-1, 5)
        _, positive, negative, _, _ = (column[~np.isnan(column)] for column in table.T)
        return {
            "positive": round(float(positive.mean()), 4) if len(positive) else 0.0,
            "negative": round(float(negative.mean()), 4) if len(negative) else 0.0,
            "replaced": self._replaced,
            "replaced_in_all": self._replaced_in_all,
            "left": round(self._left, 2),
            "minings": self._minings,
        }

    def rows(self) -> list[str]:
        """The log as lines of CSV: a step's mean scores, items with new negatives, candidates left."""
        return [
            f"{step:.0f},{self.kind},{_shown(positive)},{_shown(negative)},{replaced:.0f},{left:.2f}"
            for step, positive, negative, replaced, left in self._log
        ]

    def state(self) -> dict[str, Tensor]:
        """All of it by name, for a checkpoint: waits for a mining under way. Not copies. All processes call it."""
        import torch

        self._finish_mining()
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "present": self._present_NK,
            "candidates": self._candidate_NR,
            "turn": self._turn_N,
            "first": self._first_N,
            "score": self._score_N,
            "waiting": self._waiting,
            "mined": _NONE if self._mined is None else self._mined,
            "counts": np.array([self._minings, self._replaced, self._replaced_in_all]),
            "log": np.array(self._log, dtype=np.float64).reshape(-1, 5),
        }
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from such a state."""
        arrays = {name: tensor.numpy().copy() for name, tensor in state.items()}
        self._present_NK, self._turn_N = arrays["present"], arrays["turn"]
        self._list(arrays["candidates"])
        self._first_N, self._score_N = arrays["first"], arrays["score"]
        self._waiting, self._mining = arrays["waiting"], None
        self._mined = arrays["mined"] if len(arrays["mined"]) else None
        self._minings, self._replaced, self._replaced_in_all = arrays["counts"].tolist()
        self._seen, self._log = None, [tuple(row) for row in arrays["log"].tolist()]

    def _list(self, candidate_NR: Candidates) -> None:
        self._candidate_NR = candidate_NR
        self._length_N = (candidate_NR != ABSENT).sum(axis=1, dtype=np.int32)
        self._left = self._counted()

    def _counted(self) -> float:
        """Candidates that the items' lists still hold, on average."""
        offset = self._rule.offset if self._rule else 0
        used_N = np.where(self._turn_N > 0, self._turn_N * self._count + offset, self._count)
        return float(np.maximum(self._length_N - used_N, 0).mean()) if len(used_N) else 0.0

    def _keep_scores(self) -> tuple[float, float]:
        """Scores of the step's items; the means over them."""
        if self._seen is None:
            return float("nan"), float("nan")
        (rows, positive_b, negative_b), self._seen = self._seen, None
        first_b = self._first_N[rows]
        self._score_N[rows] = negative_b  # NaN, for an item without negatives, is no score
        self._first_N[rows] = np.where(np.isnan(first_b), negative_b, first_b)
        scored_b = negative_b[~np.isnan(negative_b)]
        mean = float(scored_b.mean(dtype=np.float64)) if len(scored_b) else float("nan")
        return float(positive_b.mean(dtype=np.float64)), mean

    def _replace_easy(self, rule: Rule) -> int:
        """Give the items whose negatives are easy their next window, or mine them again; how many got theirs."""
        score_N = self._score_N.astype(np.float64)
        easy = np.flatnonzero((rule.ratio * score_N < self._first_N) & (np.abs(score_N) < rule.ceiling))
        start = self._turn_N[easy].astype(np.int64) * self._count + rule.offset
        whole = start + self._count <= self._length_N[easy]
        items, start = easy[whole], start[whole]
        window = start[:, None] + np.arange(self._count)
        self._put(items, self._candidate_NR[items[:, None], window])
        self._turn_N[items] += 1
        self._waiting = easy[~whole]
        self._fresh(self._waiting)
        return len(items)

    def _take_mined(self) -> int:
        """Put the lists of the items mined again in the place of the old ones, and use their first windows."""
        self._finish_mining()
        if self._rule is None or self._mined is None:
            return 0
        items, mined = self._waiting, self._mined
        if mined.shape[1] > self._candidate_NR.shape[1]:
            self._candidate_NR = _wide(self._candidate_NR, mined.shape[1])
        self._candidate_NR[items] = _wide(mined, self._candidate_NR.shape[1])
        length = (mined != ABSENT).sum(axis=1)
        self._length_N[items] = length
        self._turn_N[items] = 1
        start = np.minimum(self._rule.offset, np.maximum(length - self._count, 0))
        window = start[:, None] + np.arange(self._count)
        wide = _wide(self._candidate_NR[items], int(window.max(initial=0)) + 1)
        found = length > 0  # an item without any candidate keeps what it has
        self._put(items[found], np.take_along_axis(wide, window, axis=1)[found])
        self._waiting, self._mined = np.zeros(0, dtype=np.int64), None
        return int(found.sum())

    def _put(self, items: Rows, present_IK: Candidates) -> None:
        self._present_NK[items] = present_IK
        self._fresh(items)

    def _fresh(self, items: Rows) -> None:
        self._first_N[items] = self._score_N[items] = _FRESH

    def _start_mining(self, vectors: VectorsOf) -> None:
        """Mine this process's share of the waiting items in a thread of its own.

        The thread keeps the number of PyTorch's threads that is set now: what training sets later must not reach it,
        nor anything of its own reach training, since sums may depend on that number.
        """
        import torch

        future: Future[Candidates] = Future()
        begun = threading.Event()
        items = self._waiting[self._world.share(len(self._waiting))]

        def work() -> None:
            torch.get_num_threads()  # the first call in a thread settles its number
            begun.set()
            try:
                with alone():
                    future.set_result(self._pool.rank(items, vectors).candidates if len(items) else _NONE)
            except BaseException as error:
                future.set_exception(error)

        self._mining = future
        self._minings += 1
        threading.Thread(target=work, name="mining", daemon=True).start()
        begun.wait()

    def _finish_mining(self) -> None:
        """Wait for the mining under way; bring the shares of all processes together."""
        if self._mining is None:
            return
        import torch

        own, self._mining = self._mining.result(), None
        if self._world.size == 1:
            self._mined = own
            return
        width = min(self._pool.window.last, len(self._pool.passages))
        # rows count from one here, so that the sum over the processes leaves each share as it is
        parts = torch.zeros(len(self._waiting), width, dtype=torch.int64, device=self._world.device)
        if len(own):
            parts[self._world.share(len(self._waiting))] = torch.from_numpy(own.astype(np.int64) + 1).to(parts.device)
        self._mined = (self._world.sum_(parts).cpu().numpy() - 1).astype(np.int32)


def write_negatives(uri: str, negatives: HardNegatives | None) -> None:
    """The log of mined negatives as CSV; the header alone if none were mined."""
    lines = negatives.rows() if negatives else []
    storage.write_bytes(uri, "\n".join([_HEADER, *lines, ""]).encode())


def _shown(score: float) -> str:
    return "" if np.isnan(score) else f"{score:.5f}"


def _led(given_NK: Candidates, candidate_NR: Candidates) -> Candidates:
    """The candidates, led by those given, each once [N, K + R]."""
    if not given_NK.shape[1]:
        return candidate_NR
    repeated_NR = np.zeros(candidate_NR.shape, dtype=np.bool_)
    for k in range(given_NK.shape[1]):
        repeated_NR |= candidate_NR == given_NK[:, k, None]
    all_NR = np.concatenate([given_NK, np.where(repeated_NR, ABSENT, candidate_NR)], axis=1)
    order_NR = np.argsort(all_NR == ABSENT, axis=1, kind="stable")
    return np.take_along_axis(all_NR, order_NR, axis=1)


def _wide(rows_NK: Candidates, width: int) -> Candidates:
    """Padded with ``ABSENT`` to this width at least."""
    return np.pad(rows_NK, ((0, 0), (0, max(0, width - rows_NK.shape[1]))), constant_values=ABSENT)
