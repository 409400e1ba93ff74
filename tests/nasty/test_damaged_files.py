"""Files as they arrive: wrongly encoded, cut off, damaged, full of wrong types. Every row is kept or accounted for."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from components.core.manifest import Dataset
from components.core.storage import write_bytes
from tests.ingest.conftest import Ingest, ingest, json_lines

__all__ = ["ingest"]

PAIRS = [{"query": f"question {n}", "pos": f"answer {n}"} for n in range(200)]
RETRIEVAL = {"name": "rows", "task": "retri_contrast"}


def queries(data: Dataset) -> list[str]:
    texts: list[str] = data.read(["text"])["text"].to_pylist()
    return texts


def rejected(data: Dataset) -> list[tuple[int, str]]:
    return [(row["offset"], row["reason"]) for row in data.read_rejected().to_pylist()]


def check_ledger(data: Dataset, rows_in: int) -> None:
    ledger = data.ledger
    assert ledger.rows_in.total() == rows_in
    assert ledger.rows_in.total() == ledger.rows_out.total() + ledger.quarantined["rows"].total()


def test_encoding_costs_the_rows_that_have_it_and_no_other(ingest: Ingest) -> None:
    lines = [
        '{"query": "naïve café", "pos": "à la carte"}'.encode(),
        '{"query": "naïve café", "pos": "à la carte"}'.encode("latin-1"),
        '{"query": "中文问题", "pos": "回答"}'.encode("gb18030"),
        b'{"query": "half \\ud83d of a pair", "pos": "x"}',
        b'{"query": "both \\ud83d\\ude00 of a pair", "pos": "x"}',
        '{"query": "中文问题", "pos": "回答"}'.encode(),
        b'{"query": "overlong \xc0\xaf", "pos": "x"}',
    ]
    write_bytes("a/1.jsonl", b"\xef\xbb\xbf" + b"\r\n".join(lines))
    write_bytes("a/2.csv", b"query,pos\ncaf\xe9,x\ncaf\xc3\xa9,y\n")
    train, _ = ingest({"uri": "a", **RETRIEVAL})
    assert queries(train) == ["naïve café", "both 😀 of a pair", "中文问题", "café"]
    assert rejected(train) == [(offset, "invalid_utf8") for offset in (1, 2, 3, 6, 0)]
    check_ledger(train, 9)


def test_a_line_cut_off_keeps_all_before_it(ingest: Ingest) -> None:
    data = json_lines(PAIRS)
    write_bytes("a.jsonl", data[:-9])
    train, _ = ingest({"uri": "a.jsonl", **RETRIEVAL})
    assert queries(train) == [pair["query"] for pair in PAIRS[:-1]]
    assert rejected(train) == [(199, "truncated")]
    (row,) = train.read_rejected().to_pylist()
    assert row["detail"].startswith("a.jsonl: the last line is cut off")
    assert row["record"] == data[:-9].splitlines()[-1].decode()
    check_ledger(train, 200)


@pytest.mark.parametrize(
    ("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("zst", zstandard.compress)]
)
def test_compressed_data_cut_off_keep_all_before_it(
    ingest: Ingest, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    packed = b"".join(pack(json_lines(PAIRS[start : start + 50])) for start in range(0, 200, 50))
    write_bytes(f"a/1.jsonl.{suffix}", packed[:-20])
    write_bytes("a/2.jsonl", json_lines([{"query": "next file", "pos": "x"}]))
    train, _ = ingest({"uri": "a", **RETRIEVAL})
    *kept, last = queries(train)
    assert last == "next file"
    assert kept == [pair["query"] for pair in PAIRS[: len(kept)]]
    assert len(kept) >= 150
    assert rejected(train) == [(len(kept), "truncated")]
    assert train.read_rejected()["detail"].to_pylist() == [f"a/1.jsonl.{suffix}: the .{suffix} data ends too early"]
    check_ledger(train, len(kept) + 2)


def test_a_corrupt_row_group_is_quarantined_and_the_others_go_on(ingest: Ingest) -> None:
    pq.write_table(pa.Table.from_pylist(PAIRS), "a.parquet", row_group_size=20)
    data = bytearray(Path("a.parquet").read_bytes())
    for group, column in ((3, 0), (7, 1)):
        chunk = pq.ParquetFile("a.parquet").metadata.row_group(group).column(column)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    write_bytes("a.parquet", bytes(data))
    train, _ = ingest({"uri": "a.parquet", **RETRIEVAL})
    lost = [*range(60, 80), *range(140, 160)]
    assert queries(train) == [pair["query"] for number, pair in enumerate(PAIRS) if number not in lost]
    assert rejected(train) == [(number, "corrupt") for number in lost]
    assert train.read_rejected()["detail"][0].as_py().startswith("a.parquet: row group 3 cannot be read")
    check_ledger(train, 200)


def test_a_file_without_any_readable_row_is_one_entry_beside_good_files(ingest: Ingest) -> None:
    write_bytes("a/1.parquet", b"PAR1" + b"\0" * 500)
    write_bytes("a/2.jsonl.gz", b"no gzip at all")
    write_bytes("a/3.jsonl", json_lines(PAIRS[:5]))
    train, _ = ingest({"uri": "a", **RETRIEVAL})
    assert queries(train) == [pair["query"] for pair in PAIRS[:5]]
    assert rejected(train) == [(0, "corrupt"), (0, "corrupt")]
    check_ledger(train, 7)


def test_null_empty_and_wrong_types_are_quarantined_by_reason(ingest: Ingest) -> None:
    values: list[tuple[Any, str | None]] = [
        ("good", None),
        (None, "empty_text"),
        ("", "empty_text"),
        (" \t\n", "empty_text"),
        (7, "bad_text"),
        (True, "bad_text"),
        ({"text": "x"}, "bad_text"),
        (float("nan"), "bad_text"),
        (10**400, "bad_text"),
    ]
    rows: list[Any] = [{"query": value, "pos": "p"} for value, _ in values]
    rows += [{"pos": "no query"}, {}, [], "text", None, 5]
    rows += [{"query": "q", "pos": each} for each in (None, [], [None], ["a", ""], [["nested"]])]
    write_bytes("a.jsonl", b"\n\n".join(json.dumps(row).encode() for row in rows))
    train, _ = ingest({"uri": "a.jsonl", **RETRIEVAL})
    assert queries(train) == ["good"]
    reasons = [reason for _, reason in values[1:]]
    reasons += ["missing_column"] * 2 + ["not_object"] * 4 + ["empty_text"] * 4 + ["bad_text"]
    assert rejected(train) == [(2 * number, reason) for number, reason in enumerate(reasons, 1)]
    check_ledger(train, len(rows))
