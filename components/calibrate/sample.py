"""A sample of true pairs, and the same texts as wrong pairs: each query with the passage of another."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from components.core.manifest import Dataset
from components.core.prompts import Prompts, wrap

COLUMNS = ["id", "task", "text", "text_pos", "lang"]
TASK = "retri_contrast"


@dataclass(frozen=True)
class PairSample:
    """Retrieval pairs in an order that says nothing: queries [N], their passages [N] and languages [N]."""

    queries: list[str]
    passages: list[str]
    languages: list[str]

    def prompted(self, prompts: Prompts) -> PairSample:
        """The same pairs as a teacher was trained to see them."""
        return PairSample(wrap(prompts.query, self.queries), wrap(prompts.passage, self.passages), self.languages)

    def texts(self) -> list[str]:
        """The different texts, queries first."""
        return list(dict.fromkeys([*self.queries, *self.passages]))

    def shuffled(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Wrong pairs as (query, passage) rows [M], [M]: a derangement within each language.

        A query gets the passage of the next row of its language whose passage is another text; a query whose language
        has no other passage gets none.
        """
        queries, passages = [], []
        for language in sorted(set(self.languages)):
            rows = [row for row, each in enumerate(self.languages) if each == language]
            for place, row in enumerate(rows):
                others = (rows[(place + step) % len(rows)] for step in range(1, len(rows)))
                other = next((other for other in others if self.passages[other] != self.passages[row]), None)
                if other is not None:
                    queries.append(row)
                    passages.append(other)
        return np.array(queries, np.int64), np.array(passages, np.int64)


def draw(dataset: Dataset, languages: Collection[str], size: int, advance: Callable[[int], None]) -> PairSample:
    """The `size` retrieval pairs of these languages with the smallest hash of their id: the same ones on every run."""
    columns = pa.schema([("text", pa.string()), ("text_pos", pa.string()), ("lang", pa.string())])
    chosen, order = columns.empty_table(), np.empty(0, np.uint64)
    for shard in dataset.shards:
        table = dataset.read_shard(shard, COLUMNS)
        wanted = pc.and_(pc.equal(table["task"], TASK), pc.is_in(table["lang"], pa.array(sorted(languages))))
        table = table.filter(wanted)
        hashes = [xxhash.xxh3_64_intdigest(str(each).encode()) for each in table["id"].to_pylist()]
        order = np.concatenate([order, np.array(hashes, np.uint64)])
        smallest = np.argsort(order, kind="stable")[:size]
        chosen, order = pa.concat_tables([chosen, table.select(columns.names)]).take(smallest), order[smallest]
        advance(shard.rows)
    return PairSample(*(chosen[name].to_pylist() for name in columns.names))
