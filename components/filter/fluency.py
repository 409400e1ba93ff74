"""Fluency: how well a character trigram model of the corpus itself predicts a text.

Two figures, in bits per character. `bits` is the text's cross-entropy: low for templates, high for characters that the
corpus hardly holds, such as text decoded with a wrong encoding. `excess` is what remains of it when the characters' own
frequencies are taken off (SLOR of Pauls and Klein 2012, with its sign turned): context helps to predict any text that
somebody wrote, whatever its topic, and misleads for shuffled characters, random tokens and keys hit at random.

The model interpolates by Witten and Bell's rule (as in Chen and Goodman 1999, section 2.4), so that a small sample only
makes it milder. It has one part a script. N-grams are counted in hash tables; a text that was counted is judged without
its own counts.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core.records import pair_texts
from components.core.textnorm import text_ids
from components.filter.characters import class_counts
from components.filter.language import script_languages
from components.filter.normalise import clean_column
from components.filter.params import FluencyParams
from components.filter.shingles import batches
from components.filter.texts import ShardTexts
from components.filter.verdict import Verdict

SCRIPTS = ("", "zh", "ja", "ko")  # "" holds every script in which the characters alone name no language
TABLE_BITS = (20, 22, 23)  # of the tables of 1-, 2- and 3-grams
READ_CHARACTERS = 300  # of a longer text, these stand for the whole
ENOUGH_CHARACTERS = 100_000  # a script with fewer in the sample is not judged
_KINDS = 20_000  # characters that a text may hold; spreads what is left for those that were not seen
_START, _END = "\x02", "\x03"  # no cleaned text holds them
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BATCH_CHARACTERS = 1 << 16
_CONTEXT_BITS = max(TABLE_BITS)

_SAMPLES = pa.schema([(name, pa.int64()) for name in ("cell", "count", "context")])

Counts = NDArray[np.uint32]
Figures = NDArray[np.float32]


@dataclass(frozen=True)
class Sample:
    """N-grams of one shard's sampled texts, by order: cells [G] of the tables that they fall into, sorted, how often,
    and the cell of their context in the table before: of n-grams that share a cell, the lowest. `characters` counts by
    script."""

    cells: list[NDArray[np.int64]]
    counts: list[Counts]
    contexts: list[NDArray[np.int64]]
    characters: NDArray[np.int64]


@dataclass
class Trigrams:
    """Counts of n-grams by cell, and how many different characters follow an n-gram of order 1 and 2.

    `share` is the share of texts, by hash, that were sampled.
    """

    share: float
    counts: list[Counts] = field(default_factory=lambda: [np.zeros(1 << bits, np.uint32) for bits in TABLE_BITS])
    followers: list[Counts] = field(default_factory=lambda: [np.zeros(1 << bits, np.uint32) for bits in TABLE_BITS[:2]])
    characters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SCRIPTS), np.int64))

    def add(self, sample: Sample) -> None:
        """Count a shard's sample; the order in which samples come changes nothing but cells that n-grams share."""
        for order, (cells, counts, contexts) in enumerate(
            zip(sample.cells, sample.counts, sample.contexts, strict=True)
        ):
            if order:
                new = self.counts[order][cells] == 0
                np.add.at(self.followers[order - 1], contexts[new], np.uint32(1))
            self.counts[order][cells] += counts
        self.characters += sample.characters

    def figures(self, texts: Sequence[str], scripts: NDArray[np.int64]) -> tuple[Figures, Figures]:
        """(bits, excess) per character of each text, float32 [N]; NaN where the script has too little sample.

        `scripts` [N] are indices into SCRIPTS, as `scripts_of` gives them. A text's figures depend on no other text.
        """
        bits, excess = np.full(len(texts), np.nan, np.float32), np.full(len(texts), np.nan, np.float32)
        judged = np.flatnonzero(self.characters[scripts] >= ENOUGH_CHARACTERS)
        cut = [_read(texts[index]) for index in judged.tolist()]
        for part in batches(cut, _BATCH_CHARACTERS):
            bits[judged[part]], excess[judged[part]] = self._figures(cut[part], scripts[judged[part]])
        return bits, excess

    def _figures(self, texts: Sequence[str], scripts: NDArray[np.int64]) -> tuple[Figures, Figures]:
        cells, sizes = _cells(texts, scripts)
        starts = np.cumsum(sizes) - sizes
        own = np.repeat(sampled(texts, self.share).astype(np.float64), sizes)
        counts = [table[cell] for table, cell in zip(self.counts, cells, strict=True)]
        seen = [np.maximum(count - own, 0) for count in counts]
        total = np.repeat(self.characters[scripts], sizes)
        alone = (seen[0] + 0.5) / (total + 0.5 * _KINDS)
        chance = alone
        for order in (1, 2):
            context = np.concatenate([[0.0], seen[order - 1][:-1]])
            after = self.followers[order - 1][np.concatenate([[0], cells[order - 1][:-1]])]
            # a follower that only this text has brought is none; one more keeps contexts finite that were never seen
            kinds = np.maximum(after - own * (counts[order] <= 1), 0) + 1
            chance = (np.minimum(seen[order], context) + kinds * chance) / (context + kinds)
        chance[starts] = alone[starts] = 1  # that a text starts is no news
        bits, plain = (np.add.reduceat(-np.log2(part), starts) / (sizes - 1) for part in (chance, alone))
        return bits.astype(np.float32), (bits - plain).astype(np.float32)

    def to_bytes(self) -> bytes:
        """As an Arrow stream of the cells that are not empty."""
        buffer = io.BytesIO()
        tables: list[NDArray[Any]] = [*self.counts, *self.followers, self.characters]
        schema = pa.schema([("cell", pa.int64()), ("value", pa.int64())], {"share": repr(self.share)})
        with pa.ipc.new_stream(buffer, schema) as writer:
            for table in tables:
                cells = np.flatnonzero(table)
                writer.write_batch(pa.record_batch([cells, table[cells].astype(np.int64)], schema=schema))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Trigrams:
        """The inverse of `to_bytes`."""
        reader = pa.ipc.open_stream(pa.BufferReader(data))
        model = cls(float(reader.schema.metadata[b"share"]))
        tables: list[NDArray[Any]] = [*model.counts, *model.followers, model.characters]
        for table, batch in zip(tables, reader, strict=True):
            table[batch["cell"].to_numpy()] = batch["value"].to_numpy()
        return model


@dataclass(frozen=True)
class Judge:
    """What is needed to judge rows: the model and its limits."""

    model: Trigrams
    params: FluencyParams

    def judge(self, texts: ShardTexts, counts: NDArray[np.int64], tasks: NDArray[np.object_], verdict: Verdict) -> None:
        """Drop rows with a side outside the limits; labels are exempt. `counts` [T, CLASSES] are those of the texts."""
        rows = np.flatnonzero(verdict.kept)
        right = np.where(tasks == "cls_contrast", texts.left, texts.right)
        among = np.unique(np.concatenate([texts.left[rows], right[rows]]))
        among = among[texts.lengths[among] >= self.params.min_characters]
        bits, excess = self.model.figures([texts.texts[index] for index in among], scripts_of(counts[among]))
        bad = np.zeros(len(texts.texts), bool)
        for figure, limit in (
            (bits, self.params.max_bits),
            (excess, self.params.max_excess),
            (-bits, None if self.params.min_bits is None else -self.params.min_bits),
        ):
            if limit is not None:
                bad[among[figure > limit]] = True
        details = {
            text: f"{bit:.1f} bits a character, {more:+.1f} by context"
            for text, bit, more in zip(among.tolist(), bits.tolist(), excess.tolist(), strict=True)
            if bad[text]
        }
        for side in (texts.left, right):
            verdict.drop(bad[side], "fluency", [details.get(text) for text in side.tolist()])


def sample(table: pa.Table, share: float) -> Sample:
    """Count the n-grams of the distinct texts of a shard that belong to the sample."""
    sides = pa.concat_arrays([clean_column(pa.chunked_array([side])) for side in pair_texts(table)])
    texts = [_read(text) for text in sides.unique().to_pylist() if text]
    texts = sorted({text for text, taken in zip(texts, sampled(texts, share), strict=True) if taken})
    scripts = scripts_of(class_counts(texts))
    found = Sample([], [], [], np.bincount(scripts, [len(text) + 2 for text in texts], len(SCRIPTS)).astype(np.int64))
    for order, packed in enumerate(_packed(texts, scripts)):
        packed.sort()
        cells = packed >> np.uint64(_CONTEXT_BITS)
        first = np.flatnonzero(np.diff(cells, prepend=~cells[:1]))
        found.cells.append(cells[first].astype(np.int64))
        found.counts.append(np.diff(first, append=len(cells)).astype(np.uint32))
        contexts = packed[first] & np.uint64((1 << _CONTEXT_BITS) - 1)
        found.contexts.append(contexts.astype(np.int64) if order else found.cells[0])
    return found


def _packed(texts: Sequence[str], scripts: NDArray[np.int64]) -> list[NDArray[np.uint64]]:
    """The cell of every n-gram above that of its context, uint64 [S], by order: one sort then groups them."""
    parts: list[list[NDArray[np.uint64]]] = [[np.empty(0, np.uint64)] for _ in TABLE_BITS]
    for part in batches(texts, _BATCH_CHARACTERS):
        cells, _ = _cells(texts[part], scripts[part])
        for order, stream in enumerate(cells):
            packed = stream << _CONTEXT_BITS
            if order:
                packed[1:] |= cells[order - 1][:-1]
            parts[order].append(packed.view(np.uint64))
    return [np.concatenate(part) for part in parts]


def encode_samples(samples: Sequence[Sample]) -> bytes:
    """Samples as an Arrow stream, with four batches for each: three orders, then the characters."""
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, _SAMPLES) as writer:
        for found in samples:
            for columns in zip(found.cells, found.counts, found.contexts, strict=True):
                writer.write_batch(pa.record_batch([*columns], schema=_SAMPLES))
            scripts = np.arange(len(SCRIPTS))
            writer.write_batch(pa.record_batch([scripts, found.characters, scripts], schema=_SAMPLES))
    return buffer.getvalue()


def decode_samples(data: bytes) -> Iterator[Sample]:
    """The inverse of `encode_samples`."""
    batches = iter(pa.ipc.open_stream(pa.BufferReader(data)))
    for first in batches:
        orders = [first, *(next(batches) for _ in TABLE_BITS[1:])]
        cells, counts, contexts = ([order[name].to_numpy() for order in orders] for name in _SAMPLES.names)
        yield Sample(cells, [each.astype(np.uint32) for each in counts], contexts, next(batches)["count"].to_numpy())


def sampled(texts: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Whether each text [N] belongs to the sample: by its hash, so that any process and any shard says the same."""
    return np.asarray(text_ids([_read(text) for text in texts]) / 2.0**64 < share)


def scripts_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices into SCRIPTS for texts of character classes [N, CLASSES]."""
    languages = script_languages(counts)
    return np.asarray(sum(index * (languages == code) for index, code in enumerate(SCRIPTS)), np.int64)


def _cells(texts: Sequence[str], scripts: NDArray[np.int64]) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """The table cells of the 1-, 2- and 3-grams that end at each character, at a mark before each text and at one after
    it, each int64 [S], and how many of them belong to each text [N]. Nothing precedes the mark before a text."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts)) + 2
    joined = _START + (_END + _START).join(texts) + _END if texts else ""
    codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32).astype(np.uint64)
    codes += np.repeat(scripts.astype(np.uint64) << np.uint64(21), sizes)  # above every code point
    starts = np.cumsum(sizes) - sizes
    before = np.roll(codes, 1)
    before[starts] = 0
    earlier = np.roll(before, 1)
    earlier[starts] = 0
    grams = (codes, codes + _mixed(before), codes + _mixed(before + _mixed(earlier)))
    bits = map(np.uint64, (64 - each for each in TABLE_BITS))
    return [(_mixed(gram) >> shift).astype(np.int64) for gram, shift in zip(grams, bits, strict=True)], sizes


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values * _MIX
    return (values ^ (values >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)


def _read(text: str) -> str:
    return text[:READ_CHARACTERS].replace("\n", " ")
