from __future__ import annotations

import bz2
import csv
import gzip
import io
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from components.core.carriers import (
    Carrier,
    Fault,
    Row,
    RowCounter,
    Span,
    carrier_of,
    column_names,
    read_rows,
    split_file,
)
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


def arrow(rows: list[dict[str, Any]], writer: Any = pa.ipc.new_stream) -> bytes:
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with writer(buffer, table.schema) as out:
        out.write_table(table, max_chunksize=4)
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
    "a.ndjson.gz": (gzip.compress(json_lines(ROWS)) + b"\0" * 40_000, ROWS),
    "a.json": (json_lines(ROWS), ROWS),
    "a.parquet": (parquet(ROWS), ROWS),
    "stream.arrow": (arrow(ROWS), ROWS),
    "file.feather": (arrow(ROWS, pa.ipc.new_file), ROWS),
}


def write(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def rows_of(uri: str, span: Span | None = None, columns: list[str] = COLUMNS, skip: int = 0) -> list[Row]:
    carrier = carrier_of(uri)
    assert carrier is not None
    return list(read_rows(uri, carrier, span or Span(), columns, skip))


def spans_of(uri: str, part_bytes: int) -> list[Span]:
    carrier = carrier_of(uri)
    assert carrier is not None
    return split_file(uri, carrier, Path(uri).stat().st_size, COLUMNS, part_bytes)


@pytest.mark.parametrize("name", FILES)
def test_every_carrier_gives_the_same_rows_whole_in_parts_and_from_any_row_on(tmp_path: Path, name: str) -> None:
    data, expected = FILES[name]
    uri = write(tmp_path, name, data)
    assert rows_of(uri) == list(enumerate(expected))
    for skip in (1, 5, 24, 25, 99):
        assert rows_of(uri, skip=skip) == list(enumerate(expected))[skip:]
    carrier = carrier_of(uri)
    assert carrier is not None
    for part_bytes in (1, 7, 60, 200, 100_000):
        counter = RowCounter(uri, carrier)
        spans = spans_of(uri, part_bytes)
        numbered = [(number + counter.before(span), row) for span in spans for number, row in rows_of(uri, span)]
        assert numbered == list(enumerate(expected))


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_byte_range_owns_the_lines_that_start_in_it(tmp_path: Path, ending: bytes) -> None:
    lines = [b'{"n": 0}', b"", b'{"n": "\xe4\xb8\xad"}', b" ", b'{"n": [1, 2]}', b'{"n": 5}']
    uri = write(tmp_path, "a.jsonl", ending.join(lines))
    expected = [row for _, row in rows_of(uri)]
    starts = [0, *(at + 1 for at, byte in enumerate(ending.join(lines)) if byte == ord("\n"))]
    carrier = Carrier("jsonl", None)
    for cut in range(1, Path(uri).stat().st_size):
        head, tail = Span(0, cut), Span(cut)
        parts = [rows_of(uri, head), rows_of(uri, tail)]
        assert [row for part in parts for _, row in part] == expected
        assert RowCounter(uri, carrier).before(tail) == sum(start < cut for start in starts)
        assert all(number < sum(start < cut for start in starts) for number, _ in parts[0])


def test_headers_are_known_before_reading(tmp_path: Path) -> None:
    for name in ("mark.csv", "a.csv.gz", "a.tsv.zst", "a.parquet", "stream.arrow", "file.feather"):
        uri = write(tmp_path, name, FILES[name][0])
        carrier = carrier_of(uri)
        assert carrier is not None
        assert column_names(uri, carrier) == COLUMNS


@pytest.mark.parametrize(("name", "make"), [("a.parquet", parquet), ("a.arrow", arrow)])
def test_of_columnar_files_only_wanted_columns_are_read(tmp_path: Path, name: str, make: Any) -> None:
    uri = write(tmp_path, name, make([{"query": "q", "pos": ["a", "b"], "image": b"\x00" * 100}]))
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
        ("a.jsonl", b'{"a": 1}\n{"a": 2}\n{"a": 3', {2: "truncated"}),
        ("a.jsonl", b'[1, 2]\n{"a": 1}\n', {0: "not_object"}),
        ("a.json", b'[{"a": 1},\n{"a": 2}]\n', {0: "json_array"}),
        ("a.json", b'\xef\xbb\xbf[\n {"a": 1},\n {"a": 2}\n]\n', {0: "json_array"}),
        ("a.csv", b"a,b\n1,2\n\n1,2,3\n1\n", {2: "wrong_cells", 3: "wrong_cells"}),
        ("a.csv", b'a,b\n1,2\n3,"4\n5,6\n', {1: "bad_quotes"}),
        ("a.csv", b'a,b\n"1"x,2\n"3\n3",4\n5,"6\n7,8\n9,"0"\n', {0: "bad_quotes", 2: "bad_quotes"}),
        ("a.tsv", b"a\tb\nx\t\xff\n", {0: "invalid_utf8"}),
    ],
)
def test_a_broken_row_is_set_apart_with_its_number(
    tmp_path: Path, name: str, data: bytes, reasons: dict[int, str]
) -> None:
    uri = write(tmp_path, name, data)
    rows = rows_of(uri)
    assert {number: row.reason for number, row in rows if isinstance(row, Fault)} == reasons
    for skip in range(1, 8):
        assert rows_of(uri, skip=skip) == [row for row in rows if row[0] >= skip]


def test_a_large_array_is_not_cut_into_lines(tmp_path: Path) -> None:
    uri = write(tmp_path, "a.json", b'[\n{"a": 1},\n{"a": 2}\n]')
    assert spans_of(uri, 5) == [Span()]


def test_numbers_that_only_python_reads_are_read(tmp_path: Path) -> None:
    uri = write(tmp_path, "a.jsonl", b'{"query": NaN}\n{"query": "\\ud800"}\n')
    first, second = [row for _, row in rows_of(uri)]
    assert isinstance(first, dict) and first["query"] != first["query"]
    assert second == {"query": "\ud800"}


def test_a_line_without_end_is_set_apart_and_the_next_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.core.lines.BLOCK_BYTES", 16)
    monkeypatch.setattr("components.core.lines.LINE_BYTES", 50)
    uri = write(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": "' + b"x" * 1000 + b'"}\n{"a": 2}\n')
    rows = dict(rows_of(uri))
    assert rows[0] == {"a": 1} and rows[2] == {"a": 2}
    assert isinstance(rows[1], Fault) and rows[1].reason == "too_long"


def test_columnar_text_that_is_not_utf8_is_set_apart(tmp_path: Path) -> None:
    column = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb")]
    )
    table = pa.table({"query": column})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as out:
        out.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        rows = rows_of(str(tmp_path / name))
        assert [row.reason if isinstance(row, Fault) else row["query"] for _, row in rows] == ["a", "invalid_utf8", "b"]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst", "a.csv.gz", "two-frames.jsonl.zst"])
@pytest.mark.parametrize("lost", [1, 8, 60])
def test_what_comes_before_the_cut_of_truncated_data_is_kept(tmp_path: Path, name: str, lost: int) -> None:
    data, expected = FILES[name]
    uri = write(tmp_path, name, data[:-lost])
    rows = rows_of(uri)
    *kept, (number, tail) = rows
    assert kept == list(enumerate(expected))[:number]
    assert number == len(kept)
    assert isinstance(tail, Fault) and tail.reason == "truncated"
    for skip in range(number + 3):
        assert rows_of(uri, skip=skip) == rows[skip:]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst", "a.parquet", "stream.arrow", "a.warc.gz"])
def test_data_of_another_kind_are_one_broken_row(tmp_path: Path, name: str) -> None:
    ((number, row),) = rows_of(write(tmp_path, name, b"this is something else altogether"))
    assert number == 0
    assert isinstance(row, Fault) and row.reason == "corrupt"
    carrier = carrier_of(name)
    assert carrier is not None
    assert column_names(str(tmp_path / name), carrier) is None


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, zstandard.compress])
def test_rows_before_damage_are_kept(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    suffix = {gzip.compress: "gz", bz2.compress: "bz2"}.get(pack, "zst")
    uri = write(tmp_path, f"a.jsonl.{suffix}", pack(json_lines(ROWS[:9])) + b"\xff" + pack(json_lines(ROWS[9:])))
    *kept, (number, fault) = rows_of(uri)
    assert kept == list(enumerate(ROWS[:9]))
    assert number == 9
    assert isinstance(fault, Fault) and fault.reason == "corrupt"


def test_a_corrupt_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    data = bytearray(parquet(ROWS, group=5))
    chunk = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(2).column(1)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    uri = write(tmp_path, "a.parquet", bytes(data))
    rows = rows_of(uri)
    good = [(number, row) for number, row in rows if not isinstance(row, Fault)]
    assert good == [(number, row) for number, row in enumerate(ROWS) if not 10 <= number < 15]
    assert [(number, row.reason) for number, row in rows if isinstance(row, Fault)] == [
        (number, "corrupt") for number in range(10, 15)
    ]
    for skip in (3, 10, 12, 15, 16):
        assert rows_of(uri, skip=skip) == rows[skip:]


def test_arrow_data_that_end_early_keep_what_came_before(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path, "a.arrow", arrow(ROWS)[:-200]))
    number, tail = rows[-1]
    assert rows[:-1] == list(enumerate(ROWS))[:number]
    assert number > 0
    assert isinstance(tail, Fault) and tail.reason == "corrupt"


@pytest.mark.parametrize("writer", [pa.ipc.new_stream, pa.ipc.new_file])
def test_offsets_that_lead_out_of_arrow_data_are_damage(tmp_path: Path, writer: Any) -> None:
    """Using them would end the process."""
    data = arrow(ROWS, writer)
    offsets = b"".join(offset.to_bytes(4, "little") for offset in (0, 5, 10, 15, 20))
    assert offsets in data  # four texts of five bytes each: the queries of a batch
    at = data.index(offsets) + 8
    rows = rows_of(write(tmp_path, "a.arrow", data[:at] + (1 << 30).to_bytes(4, "little") + data[at + 4 :]))
    ((_, fault),) = rows
    assert isinstance(fault, Fault) and fault.reason == "corrupt"


def response(url: str, html: bytes, status: str = "200 OK", kind: str = "text/html", more: str = "") -> bytes:
    http = f"HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\n{more}\r\n".encode() + html
    return (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    ).encode() + http + b"\r\n\r\n"  # fmt: skip


WARC = [
    b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 3\r\n\r\na:b\r\n\r\n",
    response("http://a/0", b"<p>zero</p>"),
    response("http://a/1", b"gone", status="404 Not Found"),
    response("http://a/2", b"\x89PNG", kind="image/png"),
    response("http://a/3", gzip.compress(b"<p>three</p>"), more="Content-Encoding: gzip\r\n"),
    response("http://a/4", "<p>四</p>".encode() * 99, kind="application/xhtml+xml"),
]
PAGES = [
    (0, {"url": "http://a/0", "html": b"<p>zero</p>"}),
    (3, {"url": "http://a/3", "html": b"<p>three</p>"}),
    (4, {"url": "http://a/4", "html": "<p>四</p>".encode() * 99}),
]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.warc", b"".join(WARC)),
        ("a.warc.gz", b"".join(map(gzip.compress, WARC))),
        ("a.warc.zst", b"".join(map(zstandard.compress, WARC))),
    ],
)
def test_pages_are_the_html_responses_of_a_warc_file(tmp_path: Path, name: str, data: bytes) -> None:
    uri = write(tmp_path, name, data)
    assert rows_of(uri) == PAGES
    assert rows_of(uri, skip=3) == PAGES[1:]
    rows = rows_of(write(tmp_path, name, data[:-20]))
    assert rows[:-1] == PAGES[:2]
    assert rows[-1][0] == 4
    assert isinstance(rows[-1][1], Fault) and rows[-1][1].reason == "truncated"


class Interrupted(io.BufferedIOBase):
    """A file whose connection breaks after some reads."""

    def __init__(self, data: bytes, reads: int) -> None:
        self._file, self._reads = io.BytesIO(data), reads

    def read(self, size: int | None = -1) -> bytes:
        self._reads -= 1
        if self._reads < 0:
            raise InputError("s3://b/k: the connection broke")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "stream.arrow", "file.feather", "a.warc"]
)
@pytest.mark.parametrize("reads", [0, 1])
def test_a_network_that_fails_is_an_error_and_not_damage(
    monkeypatch: pytest.MonkeyPatch, name: str, reads: int
) -> None:
    rows = [{"query": uuid.uuid5(uuid.NAMESPACE_URL, str(n)).hex, "pos": str(n)} for n in range(3000)]
    data = {
        "a.jsonl": json_lines(rows),
        "a.jsonl.gz": gzip.compress(json_lines(rows)),
        "a.jsonl.zst": zstandard.compress(json_lines(rows)),
        "a.parquet": parquet(rows, 1000),
        "stream.arrow": arrow(rows),
        "file.feather": arrow(rows, pa.ipc.new_file),
        "a.warc": b"".join(WARC) * 20,
    }[name]
    monkeypatch.setattr("components.core.storage.open_read", lambda uri: Interrupted(data, reads))
    with pytest.raises(InputError, match="the connection broke"):
        rows_of(f"s3://b/{name}")


def test_an_html_file_is_one_page(tmp_path: Path) -> None:
    for name, data in (("a.html", b"<p>x</p>"), ("b.HTM", b""), ("c.html.gz", gzip.compress(b"<p>x</p>"))):
        uri = write(tmp_path, name, data)
        assert rows_of(uri) == [(0, {"url": uri, "html": b"" if name == "b.HTM" else b"<p>x</p>"})]
        assert rows_of(uri, skip=1) == []


@pytest.mark.parametrize(
    ("uri", "carrier"),
    [
        ("x/A.JSONL.GZ", ("jsonl", "gz")),
        ("s3://b/k.csv", ("csv", None)),
        ("a.tsv.bz2", ("tsv", "bz2")),
        ("a.parquet", ("parquet", None)),
        ("a.parquet.gz", None),
        ("data-00000-of-00001.arrow", ("arrow", None)),
        ("a.feather", ("arrow", None)),
        ("CC-MAIN-2024.warc.gz", ("warc", "gz")),
        ("a.ndjson", ("jsonl", None)),
        ("train.json.bz2", ("jsonl", "bz2")),
        ("index.htm", ("html", None)),
        ("README.md", None),
        ("jsonl", None),
        ("a.gz", None),
    ],
)
def test_suffixes_name_the_carrier(uri: str, carrier: tuple[str, str | None] | None) -> None:
    assert carrier_of(uri) == carrier
