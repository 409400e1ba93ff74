from __future__ import annotations

import bz2
import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from components.core.carriers import Fault, Row, Span, carrier_of, column_names, read_rows, split_rows
from components.core.errors import InputError
from tests.ingest.conftest import json_lines

ROWS = [{"query": f"问 {i}", "pos": 'a "quoted", long\ntext' if i % 3 == 0 else f"answer {i}"} for i in range(25)]
COLUMNS = ["query", "pos"]


def delimited(rows: list[dict[str, str]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    cells = [COLUMNS, *([row["query"], row["pos"]] for row in rows)]
    if delimiter == "\t":
        return "".join("\t".join(row) + "\n" for row in cells).encode()
    csv.writer(text).writerows(cells)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]], group: int = 4) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=group)
    return buffer.getvalue()


def one_line(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{key: value.replace("\n", " ") for key, value in row.items()} for row in rows]


FILES: dict[str, tuple[bytes, list[dict[str, str]]]] = {
    "a.jsonl": (json_lines(ROWS), ROWS),
    "a.jsonl.gz": (gzip.compress(json_lines(ROWS)), ROWS),
    "two-members.jsonl.gz": (gzip.compress(json_lines(ROWS[:9])) + gzip.compress(json_lines(ROWS[9:])), ROWS),
    "a.jsonl.bz2": (bz2.compress(json_lines(ROWS)), ROWS),
    "a.jsonl.zst": (zstandard.compress(json_lines(ROWS)), ROWS),
    "two-frames.jsonl.zst": (zstandard.compress(json_lines(ROWS[:9])) + zstandard.compress(json_lines(ROWS[9:])), ROWS),
    "mark.jsonl": (b"\xef\xbb\xbf" + json_lines(ROWS), ROWS),
    "no-last-newline.jsonl": (json_lines(ROWS).rstrip(), ROWS),
    "A.CSV": (delimited(ROWS), ROWS),
    "mark.csv": (b"\xef\xbb\xbf" + delimited(ROWS), ROWS),
    "a.csv.gz": (gzip.compress(delimited(ROWS)), ROWS),
    "a.tsv": (delimited(one_line(ROWS), "\t"), one_line(ROWS)),
    "a.tsv.zst": (zstandard.compress(delimited(one_line(ROWS), "\t")), one_line(ROWS)),
    "a.parquet": (parquet(ROWS), ROWS),
}


def write(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def rows_of(uri: str, span: Span | None = None, columns: list[str] = COLUMNS) -> list[Row]:
    carrier = carrier_of(uri)
    assert carrier is not None
    return list(read_rows(uri, carrier, span or Span(), columns))


@pytest.mark.parametrize("name", FILES)
def test_every_carrier_gives_the_same_rows_whole_and_in_spans(tmp_path: Path, name: str) -> None:
    data, expected = FILES[name]
    uri = write(tmp_path, name, data)
    assert rows_of(uri) == list(enumerate(expected))
    carrier = carrier_of(uri)
    assert carrier is not None
    for size in (1, 7, 25, 100):
        spans = split_rows(uri, carrier, size)
        assert len(spans) == -(-25 // size)
        assert [row for span in spans for row in rows_of(uri, span)] == list(enumerate(expected))


def test_headers_are_known_before_reading(tmp_path: Path) -> None:
    for name in ("mark.csv", "a.csv.gz", "a.tsv.zst", "a.parquet"):
        uri = write(tmp_path, name, FILES[name][0])
        carrier = carrier_of(uri)
        assert carrier is not None
        assert column_names(uri, carrier) == COLUMNS


def test_of_parquet_only_wanted_columns_are_read(tmp_path: Path) -> None:
    uri = write(tmp_path, "a.parquet", parquet([{"query": "q", "pos": ["a", "b"], "image": b"\x00" * 100}]))
    assert rows_of(uri, columns=["query", "pos", "neg"]) == [(0, {"query": "q", "pos": ["a", "b"]})]


@pytest.mark.parametrize(
    ("name", "data", "reasons"),
    [
        (
            "a.jsonl",
            b'{"a": 1}\n\n[1]\n"x"\nnull\n{"a": \n',
            {2: "not_object", 3: "not_object", 4: "not_object", 5: "not_json"},
        ),
        (
            "a.jsonl",
            b'{"a": "\xff"}\n{"a": "ok"}\n' + '{"a": "é"}\n'.encode("latin-1"),
            {0: "invalid_utf8", 2: "invalid_utf8"},
        ),
        ("a.jsonl", b"[" * 100_000 + b"\n", {0: "not_json"}),
        ("a.csv", b"a,b\n1,2\n\n1,2,3\n1\n", {2: "wrong_cells", 3: "wrong_cells"}),
        ("a.tsv", b"a\tb\nx\t\xff\n", {0: "invalid_utf8"}),
    ],
)
def test_a_broken_row_is_set_apart_with_its_number(
    tmp_path: Path, name: str, data: bytes, reasons: dict[int, str]
) -> None:
    rows = rows_of(write(tmp_path, name, data))
    assert {number: row.reason for number, row in rows if isinstance(row, Fault)} == reasons


def test_parquet_text_that_is_not_utf8_is_set_apart(tmp_path: Path) -> None:
    column = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")]
    )
    pq.write_table(pa.table({"query": column}), tmp_path / "a.parquet")
    rows = rows_of(str(tmp_path / "a.parquet"))
    assert [row.reason if isinstance(row, Fault) else row["query"] for _, row in rows] == ["a", "invalid_utf8", "b"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst", "a.csv.gz", "two-frames.jsonl.zst"])
@pytest.mark.parametrize("lost", [1, 8, 60])
def test_truncated_data_are_noticed(tmp_path: Path, name: str, lost: int) -> None:
    uri = write(tmp_path, name, FILES[name][0][:-lost])
    with pytest.raises(InputError, match=rf"{name}: truncated( after row \d+)?: the \.\w+ data ends too early"):
        rows_of(uri)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst", "a.parquet"])
def test_corrupt_data_are_named(tmp_path: Path, name: str) -> None:
    data = bytearray(FILES[name][0])
    for whole in (b"this is something else altogether", bytes(data[:40]) + b"\xff" * 60 + bytes(data[100:])):
        with pytest.raises(InputError, match=f"{name}: (not a readable|truncated)"):
            rows_of(write(tmp_path, name, whole))


def test_an_open_quotation_mark_does_not_swallow_rows(tmp_path: Path) -> None:
    uri = write(tmp_path, "a.csv", b'a,b\n1,2\n3,"4\n5,6\n')
    with pytest.raises(InputError, match=r"a\.csv: not a readable \.csv file after row 0 \(unexpected end of data\)"):
        rows_of(uri)


@pytest.mark.parametrize(
    ("uri", "carrier"),
    [
        ("x/A.JSONL.GZ", ("jsonl", "gz")),
        ("s3://b/k.csv", ("csv", None)),
        ("a.tsv.bz2", ("tsv", "bz2")),
        ("a.parquet", ("parquet", None)),
        ("a.parquet.gz", None),
        ("meta.json", None),
        ("README.md", None),
        ("jsonl", None),
        ("a.gz", None),
    ],
)
def test_suffixes_name_the_carrier(uri: str, carrier: tuple[str, str | None] | None) -> None:
    assert carrier_of(uri) == carrier
