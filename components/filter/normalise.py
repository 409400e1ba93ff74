"""Cleaning of record texts: what no reader can see, and whitespace without meaning, goes; the text itself stays."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.core.records import SCHEMA, record_ids

# Controls, soft hyphens, zero-width and bidirectional marks, byte-order marks, tag characters. The joiners U+200C and
# U+200D stay: Persian words and emoji are spelt with them.
_INVISIBLE = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\U000e0000-\U000e007f"
)
_LINE_ENDS = "\x0b\x0c\x85\u2028\u2029"
_WIDE_SPACES = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
# UTF-8 of one character read as Latin-1, with a control in it other than U+0085, which also ends lines
_C1 = "\x80-\x84\x86-\x9f"
_CONTROL = re.compile(f"[{_C1}]")
_BYTE = "[\x80-\xbf]"
_MISREAD = re.compile(
    f"[\xc2-\xdf][{_C1}]|[\xe0-\xef](?={_BYTE}?[{_C1}]){_BYTE}{{2}}|[\xf0-\xf4](?={_BYTE}{{,2}}[{_C1}]){_BYTE}{{3}}"
)
_INVISIBLE_RUN = re.compile(f"[{_INVISIBLE}]+")
_LINE_END = re.compile(f"\r\n?|[{_LINE_ENDS}]")
_TRAILING = re.compile(r"[^\S\n]+(?=\n)")
_SPACES = re.compile(r"(?<=\S)[^\S\n]+")
_BLANK_LINES = re.compile(r"\n{3,}")
# RE2: finds the few texts that clean_text would change, so that the others never become Python strings
_UNCLEAN = rf"[{_INVISIBLE}{_LINE_ENDS}{_WIDE_SPACES}\r\t]|\S  | \n|\n\n\n|^\s|\s$"
TEXT_COLUMNS = ("text", "text_pos", "text_pair")


def clean_text(text: str) -> str:
    """Remove invisible characters; make line ends and spaces plain; collapse runs of spaces inside a line.

    Newlines, indentation and at most one blank line in a row are kept. Bytes of UTF-8 that were read as Latin-1
    controls become U+FFFD with the rest of their character: without them "donât" would stand there and tell nothing.
    Idempotent.
    """
    if _CONTROL.search(text):
        text = _MISREAD.sub(lambda found: "\ufffd" * len(found[0]), text)
    text = _LINE_END.sub("\n", _INVISIBLE_RUN.sub("", text))
    text = _SPACES.sub(" ", _TRAILING.sub("", text))
    return _BLANK_LINES.sub("\n\n", re.sub(f"[{_WIDE_SPACES}\t]", " ", text)).strip()


def clean_table(table: pa.Table) -> pa.Table:
    """Clean every text of records of SCHEMA, drop negatives that are then empty, and renew the ids of changed pairs."""
    changed = np.zeros(len(table), bool)
    for name in TEXT_COLUMNS:
        cleaned, unclean = _clean(table[name].combine_chunks())
        changed |= unclean.to_numpy(zero_copy_only=False)
        table = table.set_column(table.schema.get_field_index(name), name, cleaned)
    negatives = _clean_negatives(table["text_neg"].combine_chunks())
    table = table.set_column(table.schema.get_field_index("text_neg"), "text_neg", negatives)
    ids = table["id"].to_numpy().copy()
    ids[changed] = record_ids(table.filter(pa.array(changed)))
    return table.set_column(table.schema.get_field_index("id"), "id", pa.array(ids, pa.uint64()))


def clean_column(column: pa.ChunkedArray) -> pa.Array:
    """`clean_text` of each text of a column; nulls stay null."""
    return _clean(column.combine_chunks())[0]


def _clean(array: pa.Array) -> tuple[pa.Array, pa.Array]:
    """The cleaned texts, and which ones were unclean."""
    unclean = pc.fill_null(pc.match_substring_regex(array, _UNCLEAN), False)
    cleaned = [clean_text(text) for text in array.filter(unclean).to_pylist()]
    return pc.replace_with_mask(array, unclean, pa.array(cleaned, pa.string())), unclean


def _clean_negatives(lists: pa.ListArray) -> pa.ListArray:
    values = clean_column(pa.chunked_array([lists.flatten()], pa.string()))
    real = pc.fill_null(pc.greater(pc.utf8_length(values), 0), False)
    owner = pc.list_parent_indices(lists).filter(real).to_numpy()
    counts = np.bincount(owner, minlength=len(lists))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    mask = pa.array(counts == 0)
    type_ = SCHEMA.field("text_neg").type
    return pa.ListArray.from_arrays(offsets, values.filter(real), type=type_, mask=mask)
