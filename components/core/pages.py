"""HTML pages as rows {"url", "html"}: the responses of a WARC file, or one page that is a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from components.core.carriers import Fault, Row

if TYPE_CHECKING:
    from fastwarc.warc import WarcRecord

# A larger page is set apart instead of being held in memory.
PAGE_BYTES = 1 << 27
HTML_TYPES = ("text/html", "application/xhtml+xml")
_TRUNCATED = Fault("truncated", "the file ends inside a record", "")
_TOO_LONG = Fault("too_long", f"a page of over {PAGE_BYTES:,} bytes", "")


def read_warc(file: BinaryIO, skip: int, damage: Callable[[], Fault | None]) -> Iterator[Row]:
    """HTML responses with status 200, numbered among the file's responses from 0, without the first `skip`.

    Other records (requests, metadata, images, error pages) are no rows. `damage` is asked at the end of the data.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    number = 0
    try:
        records = ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=False, stream_detect=False)
        for number, record in enumerate(records):
            if number >= skip:
                row = _page(record)
                if isinstance(row, Fault) and row.reason == "truncated":
                    yield number, (damage() or row)._replace(raw=row.raw)
                    return
                if row is not None:
                    yield number, row
            number += 1
    except OSError as error:
        if error.errno:
            raise
        yield number, damage() or Fault("corrupt", f"the WARC data cannot be read on ({error})", "")
        return
    if number >= skip and (fault := damage()):
        yield number, fault


def read_html(file: BinaryIO, uri: str, skip: int, damage: Callable[[], Fault | None]) -> Iterator[Row]:
    """The one page of a file, whose address is the file's own."""
    if not skip:
        html = file.read(PAGE_BYTES + 1)
        yield 0, damage() or (_TOO_LONG if len(html) > PAGE_BYTES else {"url": uri, "html": html})


def _page(record: WarcRecord) -> dict[str, str | bytes | None] | Fault | None:
    """The row of a response; None if it is none."""
    url = record.headers.get("WARC-Target-URI")
    raw = url or ""
    try:
        record.parse_http(auto_decode="all")
        headers = record.http_headers
        if headers is None:
            return _TRUNCATED._replace(raw=raw)
        if headers.status_code != 200 or record.http_content_type not in HTML_TYPES:
            return None
        html = record.reader.read(PAGE_BYTES + 1)
    except OSError as error:
        if error.errno:
            raise
        return Fault("corrupt", f"the response cannot be decoded ({error})", raw)
    if len(html) > PAGE_BYTES:
        return _TOO_LONG._replace(raw=raw)
    packed = any(name in headers for name in ("Content-Encoding", "Transfer-Encoding"))
    if not packed and len(html) < record.content_length:
        return _TRUNCATED._replace(raw=raw)
    return {"url": url, "html": html}
