"""The phases that find semantic duplicates among the rows that are still kept, between `near` and `settled`.

`semantic_cells`, one task, learns the cells from the rows of smallest rank, `semantic_rows` puts every row with its
vector into the parts of its cells, `semantic_pairs` compares the rows of a cell, and `semantic`, one task, finds the
clusters. The first two run in the step's own process, which alone has the store of vectors; texts are encoded by its
workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.core.arrays import read_array, write_array
from components.core.crew import Crew
from components.core.exchange import read_partition
from components.filter import semantic
from components.filter.cluster_shuffle import PAIRS_WITH_COSINE, write_cluster_losers
from components.filter.judgement import read_judgement
from components.filter.minhash import mix
from components.filter.normalise import clean_column
from components.filter.params import SemanticDuplicateParams
from components.filter.reasons import KEPT
from components.filter.shuffle import ROW_BITS, ROW_MASK, Shuffle, addresses, among, partition_of
from components.filter.shuffle_plan import FILL

if TYPE_CHECKING:
    from components.training.encoder import Encoder

# Rows that are encoded at once: their texts and vectors are in memory.
BLOCK_ROWS = 65536
# Peak working memory of a task over the bytes that it has read: a cell's vectors are copied beside them.
READ_MEMORY = 2

Floats = NDArray[np.float32]


def partition_count(dims: int, rows: int, budget: int) -> int:
    """How many tasks of about `budget` bytes of memory the search among at most `rows` rows is cut into."""
    row_bytes = semantic.PROBES * (2 * dims * 4 + 40)
    return max(1, -(-rows * row_bytes * READ_MEMORY // int(budget * FILL)))


def find_semantic(
    shuffle: Shuffle,
    params: SemanticDuplicateParams,
    encoder: Encoder,
    crew: Crew,
) -> None:
    """Run the phases; `semantic` then holds the losers."""
    learn = partial(_cells, encoder=encoder, workers=crew.workers)
    shuffle.run("semantic_cells", learn, 1, crew, workers=1)
    centroids = read_array(shuffle.place("semantic_cells", 0))
    embed = partial(_place_rows, encoder=encoder, centroids=centroids, workers=crew.workers)
    shuffle.run("semantic_rows", embed, shuffle.plan.groups, crew, workers=1)
    search = partial(_pairs, threshold=params.threshold, dims=encoder.dims)
    shuffle.run("semantic_pairs", search, shuffle.semantic_partitions, crew)
    shuffle.run("semantic", partial(_clusters, max_cluster=params.max_cluster), 1, crew)


def _cells(shuffle: Shuffle, number: int, encoder: Encoder, workers: int) -> None:
    write_array(shuffle.place("semantic_cells", number), _learn(shuffle, encoder, workers))


def _learn(shuffle: Shuffle, encoder: Encoder, workers: int) -> Floats:
    """Cells from a sample of the kept rows: those of smallest rank, so that it hangs on no order."""
    limit = semantic.MAX_CELLS * semantic.SAMPLE_A_CELL
    rows, smallest = 0, np.empty(0, np.uint64)
    for table in _kept(shuffle, range(shuffle.plan.groups)):
        rows += len(table)
        smallest = np.sort(np.concatenate([smallest, table["rank"].to_numpy()]), kind="stable")[:limit]
    count = semantic.cell_count(rows)
    if count == 1:
        return np.zeros((1, 2 * encoder.dims), np.float32)
    bound = smallest[min(len(smallest), count * semantic.SAMPLE_A_CELL) - 1]
    parts, ranks = [], []
    for table in _kept(shuffle, range(shuffle.plan.groups)):
        sample = table.filter(pc.less_equal(table["rank"], pa.scalar(int(bound), pa.uint64())))
        if len(sample):
            parts.append(_embed(shuffle, encoder, sample, workers))
            ranks.append(sample["rank"].to_numpy())
    return semantic.learn_cells(np.concatenate(parts)[np.argsort(np.concatenate(ranks), kind="stable")], count)


def _place_rows(shuffle: Shuffle, group: int, encoder: Encoder, centroids: Floats, workers: int) -> None:
    """Write the kept rows of a group's shards with their vectors, by the part that their cell belongs to."""
    schema, partitions = _schema(encoder.dims), shuffle.semantic_partitions
    with shuffle.write("semantic_rows", group, schema, partitions) as rounds:
        for table in _kept(shuffle, [group]):
            vectors = _embed(shuffle, encoder, table, workers)
            flat = pa.Array.from_buffers(
                pa.binary(8 * encoder.dims), len(vectors), [None, pa.py_buffer(np.ascontiguousarray(vectors))]
            )
            row = [*(table[name].combine_chunks() for name in ("address", "id", "rank")), flat]
            kind = table["kind"].to_numpy()
            for cell in semantic.nearest_cells(vectors, centroids).T.astype(np.uint64):
                hashed = mix(kind + cell)
                rounds.add(pa.table([pa.array(hashed), *row], schema=schema), partition_of(hashed, partitions))


def _pairs(shuffle: Shuffle, partition: int, threshold: float, dims: int) -> None:
    """The pairs of rows that share a cell and whose sides both reach the threshold."""
    files = shuffle.places("semantic_rows", shuffle.plan.groups)
    table = read_partition(files, partition, _schema(dims))
    cell, rank = table["cell"].to_numpy(), table["rank"].to_numpy()
    order = np.lexsort((rank, cell))
    with shuffle.write("semantic_pairs", partition, PAIRS_WITH_COSINE, 1) as rounds:
        for rows in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
            mine = table.take(pa.array(rows))
            address, ids, ranks = (mine[name].to_numpy() for name in ("address", "id", "rank"))
            vectors = np.frombuffer(b"".join(mine["vector"].to_pylist()), np.float32).reshape(len(rows), 2 * dims)
            a, b, cosine = semantic.similar_pairs(vectors, ranks, threshold)
            columns = (address[a], address[b], ranks[a], ranks[b], ids[a], ids[b], cosine)
            rounds.add(pa.table([*map(pa.array, columns)], schema=PAIRS_WITH_COSINE), np.zeros(len(a), np.int64))


def _clusters(shuffle: Shuffle, number: int, max_cluster: int) -> None:
    """Of each cluster of pairs all rows but one; the only task of its phase."""
    files = shuffle.places("semantic_pairs", shuffle.semantic_partitions)
    write_cluster_losers(shuffle, "semantic", number, files, PAIRS_WITH_COSINE, max_cluster)


def _kept(shuffle: Shuffle, groups: range | list[int]) -> Iterator[pa.Table]:
    """Tables of address, id, rank and kind of the rows that nothing has dropped so far, at most BLOCK_ROWS each."""
    for group in groups:
        lost = shuffle.dropped(group)
        for shard in shuffle.plan.shards_of(group):
            table = read_judgement(shuffle.judgement(shard), ("code", "id", "rank", "kind"))
            address = addresses(shard, len(table))
            table = table.append_column("address", pa.array(address))
            table = table.filter(pa.array(np.equal(table["code"].to_numpy(), KEPT) & ~among(address, lost)))
            for start in range(0, len(table), BLOCK_ROWS):
                yield table.slice(start, BLOCK_ROWS)


def _embed(shuffle: Shuffle, encoder: Encoder, rows: pa.Table, workers: int) -> Floats:
    """Vectors [N, 2·D] of the pairs of rows of one shard."""
    from components.training.vectors import TEACHER_CACHE, encode_cached

    address = rows["address"].to_numpy()
    shard, place = int(address[0] >> np.uint64(ROW_BITS)), (address & ROW_MASK).astype(np.int64)
    columns = ("text", "text_pos", "text_pair")
    table = shuffle.ingest.read_shard(shuffle.shards[shard], columns, verify=False).take(pa.array(place))
    sides = [table["text"], pc.coalesce(table["text_pos"], table["text_pair"])]
    texts = pa.concat_arrays([pa.array(clean_column(side).to_pylist(), pa.large_string()) for side in sides])
    coded = texts.dictionary_encode()
    vectors = encode_cached(encoder, coded.dictionary.to_pylist(), TEACHER_CACHE, workers)
    left, right = np.split(coded.indices.to_numpy(), 2)
    return semantic.pair_vectors(vectors[left], vectors[right])


def _schema(dims: int) -> pa.Schema:
    numbers = [pa.field(name, pa.uint64()) for name in ("cell", "address", "id", "rank")]
    return pa.schema([*numbers, pa.field("vector", pa.binary(2 * dims * 4))])
