"""Labelled texts from files, each once, and which of them a classifier learns from, is tuned on and is measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import xxhash
from numpy.typing import NDArray

from components.core import storage
from components.core.carriers import Fault, Span, carrier_of, column_names, is_text, read_rows, row_files
from components.core.errors import InputError, UsageError
from components.core.pinned import digest
from components.core.textnorm import normalise_key

# Fewer of a class on one side of the split say nothing about it.
MIN_EXAMPLES = 20
MAX_BACKGROUND = 50_000


@dataclass(frozen=True)
class Examples:
    """Distinct texts [N] with whether each is a positive, and what became of the other rows.

    `keys` [N] are the texts as normalised for comparing; `unused` counts rows by reason.
    """

    texts: list[str]
    keys: list[str]
    positive: NDArray[np.bool_]
    files: dict[str, str]
    rows: int
    unused: dict[str, int]


@dataclass(frozen=True)
class Split:
    """Indices of the examples to fit on, to choose the threshold on, and to report figures on."""

    fit: NDArray[np.int64]
    tune: NDArray[np.int64]
    test: NDArray[np.int64]


@dataclass
class _Table:
    texts: dict[str, tuple[str, bool]] = field(default_factory=dict)
    both: set[str] = field(default_factory=set)
    labels: Counter[str] = field(default_factory=Counter)
    unused: Counter[str] = field(default_factory=Counter)
    rows: int = 0


def read_examples(
    uris: Sequence[str], text: str, label: str, positive: Sequence[str], background: Sequence[tuple[str, str]] = ()
) -> Examples:
    """Read every file of `uris`; a row is positive if its label, as text, is one of `positive`.

    `background` are files and their column of text, all of it no positives; of more than MAX_BACKGROUND texts a sample.

    Texts count as the same by their normalised key; those found with both labels teach nothing and are left out.
    Raises InputError for files that cannot be read or lack a column, UsageError if no row has a positive label.
    """
    table = _Table()
    files = [file for uri in uris for file in _files(uri)]
    for file in files:
        for row in _rows(file, [text, label]):
            _take(table, row, text, label, positive)
    if not any(labelled for _, labelled in table.texts.values()):
        common = ", ".join(repr(name) for name, _ in table.labels.most_common(8))
        raise UsageError(f"--positive {' '.join(positive)}: no row has this {label}; labels found: {common or 'none'}")
    _take_background(table, background, files)
    kept = [(key, *entry) for key, entry in table.texts.items() if key not in table.both]
    table.unused["text with both labels"] += len(table.both)
    return Examples(
        texts=[each for _, each, _ in kept],
        keys=[key for key, _, _ in kept],
        positive=np.array([labelled for _, _, labelled in kept], bool),
        files={file: digest(file) for file in files},
        rows=table.rows,
        unused={reason: rows for reason, rows in sorted(table.unused.items()) if rows},
    )


def split(examples: Examples, holdout: float, seed: int) -> Split:
    """Hold `holdout` of the texts out to measure on and as many again to choose the threshold on, by hash of the key.

    Raises InputError if a part has fewer than MIN_EXAMPLES of a class.
    """
    hashes = np.fromiter((xxhash.xxh3_64_intdigest(key.encode(), seed) for key in examples.keys), np.uint64)
    share = hashes / 2.0**64
    parts = {"test": share < holdout, "tune": (share >= holdout) & (share < 2 * holdout), "fit": share >= 2 * holdout}
    for name, part in parts.items():
        for kind, found in (("positive", examples.positive[part]), ("other", ~examples.positive[part])):
            if found.sum() < MIN_EXAMPLES:
                raise InputError(
                    f"too few texts: {found.sum()} {kind} ones to {name} on, wanted at least {MIN_EXAMPLES}; "
                    f"there are {examples.positive.sum()} positive and {(~examples.positive).sum()} other texts"
                )
    return Split(*(np.flatnonzero(parts[name]) for name in ("fit", "tune", "test")))


def _take(table: _Table, row: dict[str, object] | Fault, text: str, label: str, positive: Sequence[str]) -> None:
    table.rows += 1
    if isinstance(row, Fault):
        table.unused[row.reason] += 1
        return
    value, name = row.get(text), row.get(label)
    if not isinstance(value, str) or not is_text(value) or name is None:
        table.unused["no text or no label"] += 1
        return
    table.labels[str(name)] += 1
    key, labelled = normalise_key(value), str(name) in positive
    if not key:
        table.unused["empty"] += 1
    elif key not in table.texts:
        table.texts[key] = (value, labelled)
    else:
        table.unused["text seen before"] += 1
        if table.texts[key][1] != labelled:
            table.both.add(key)


def _take_background(table: _Table, background: Sequence[tuple[str, str]], files: list[str]) -> None:
    """Add the background to the others: the texts of the smallest hashes, whatever their order in the files."""
    taken: dict[str, str] = {}
    for uri, column in background:
        for file in _files(uri):
            files.append(file)
            for row in _rows(file, [column]):
                table.rows += 1
                value = None if isinstance(row, Fault) else row.get(column)
                if isinstance(row, Fault):
                    table.unused[row.reason] += 1
                elif not isinstance(value, str) or not is_text(value) or not (key := normalise_key(value)):
                    table.unused["no text or no label"] += 1
                elif key in taken or key in table.texts:
                    table.unused["text seen before"] += 1
                    if key in table.texts and table.texts[key][1]:
                        table.both.add(key)
                else:
                    taken[key] = value
            if len(taken) > 2 * MAX_BACKGROUND:
                taken = _smallest(table, taken)
    table.texts |= {key: (value, False) for key, value in _smallest(table, taken).items()}


def _smallest(table: _Table, taken: dict[str, str]) -> dict[str, str]:
    keys = sorted(taken, key=lambda key: xxhash.xxh3_64_intdigest(key.encode()))
    table.unused["background beyond the sample"] += max(0, len(keys) - MAX_BACKGROUND)
    return {key: taken[key] for key in keys[:MAX_BACKGROUND]}


def _files(uri: str) -> list[str]:
    found = [info.uri for info in storage.list_files(uri)]
    readable = row_files(found)
    if not readable:
        what = "no file that rows can be read from" if found else "no such file or folder"
        raise InputError(f"{uri}: {what}")
    return readable


def _rows(file: str, wanted: Sequence[str]) -> Iterator[dict[str, object] | Fault]:
    carrier = carrier_of(file)
    assert carrier is not None
    header = column_names(file, carrier)
    for number, row in read_rows(file, carrier, Span(), wanted):
        columns = header if header is not None else (None if isinstance(row, Fault) else list(row))
        for name in wanted:
            if columns is not None and name not in columns:
                found = ", ".join(sorted(columns))
                raise InputError(f"{file}: row {number} has no column {name!r}; columns found: {found}")
        yield row
