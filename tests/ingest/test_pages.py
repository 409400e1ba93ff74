"""Web pages: title and main text, and a reader that no page can hang or kill."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.core.carriers import Fault
from components.core.errors import UsageError
from components.core.sources import PageParams, SourceParams
from components.core.storage import write_bytes
from components.ingest.columns import ColumnMap
from components.ingest.extraction import decode
from components.ingest.pages import Page, PageReader
from tests.conftest import PROJECT
from tests.ingest.conftest import Ingest, json_lines

PARAGRAPHS = [f"Paragraph {n} tells at some length what happened on day {n} of the long journey." for n in range(8)]
ARTICLE = (
    "<html><head><title>A journey | The Daily Mill</title>"
    "<meta property='og:site_name' content='The Daily Mill'></head>"
    "<body><nav><a href='/'>Home</a> <a href='/news'>News</a></nav><div class='story'><h1>A journey</h1>"
    + "".join(f"<p>{text}</p>" for text in PARAGRAPHS)
    + "<ul><li><a href='/1'>Read this too</a></li><li><a href='/2'>And this</a></li></ul></div>"
    "<div class='comments'><p>I was there and I remember it quite differently, to be honest with you.</p></div>"
    "<footer><p>Copyright The Daily Mill, all rights are reserved for ever and ever.</p></footer></body></html>"
)


@pytest.fixture
def reader() -> Iterator[PageReader]:
    made = PageReader(PageParams(seconds=30))
    yield made
    made.close()


def test_boilerplate_is_left_out_and_the_title_has_no_site_name(reader: PageReader) -> None:
    assert reader.read(ARTICLE, None) == Page("A journey", "\n".join(PARAGRAPHS))


@pytest.mark.parametrize(
    ("head", "url", "title"),
    [
        ("<title>Rain - again - Daily News</title>", "https://www.daily-news.com/rain", "Rain - again"),
        ("<title>Rain - again</title>", None, "Rain - again"),
        ("<title>沈阳铁西区暴雨_网易新闻</title><h1>沈阳铁西区暴雨</h1>", None, "沈阳铁西区暴雨"),
        ("<title>BBC - Rain</title><meta property=og:site_name content=BBC>", None, "Rain"),
        ("<title>x</title><meta property='og:title' content=' Rain \n again '>", None, "Rain again"),
        ("<title>Rain</title><h1>The Daily</h1>", None, "Rain"),
        ("<h1>Rain</h1>", None, "Rain"),
        ("<p>no title", None, ""),
    ],
)
def test_the_title_is_the_headline(reader: PageReader, head: str, url: str | None, title: str) -> None:
    page = reader.read(f"{head}<p>Some text that stands below it.</p>", url)
    assert isinstance(page, Page)
    assert page.title == title


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "gb18030", "big5", "utf-16"])
@pytest.mark.parametrize("declared", ["itself", "nothing", "utf-8"])
def test_chinese_encodings_are_decoded_even_where_the_page_declares_another(encoding: str, declared: str) -> None:
    named = {"itself": f"<meta charset={encoding}>", "nothing": "", "utf-8": "<meta charset=utf-8>"}[declared]
    simplified = "今天下午北方下了大雨，街道和地下室都被水淹了。我们的邻居说，这是十年来最大的一场雨。"
    traditional = "今天下午北方下了大雨，街道和地下室都被水淹了。我們的鄰居說，這是十年來最大的一場雨。"
    text = "<html>" + named + "<p>" + (traditional if encoding == "big5" else simplified) * 20
    assert decode(text.encode(encoding)) == text


def test_a_page_over_a_limit_is_refused_and_the_next_one_is_read() -> None:
    reader = PageReader(PageParams(max_bytes=2_000_000, max_depth=40, seconds=0.5))
    slow = "<title>T</title>" + "<span>" * 100_000 + "</b>" * 100_000
    faults = [reader.read(html, None) for html in ("<p>" * 700_000, "<div>" * 50 + "x", slow)]
    assert [fault.reason for fault in faults if isinstance(fault, Fault)] == [
        "page_too_large",
        "page_too_deep",
        "page_timeout",
    ]
    assert isinstance(reader.read(ARTICLE, None), Page)
    reader.close()


def test_a_page_that_needs_more_memory_than_allowed_is_refused() -> None:
    reader = PageReader(PageParams(memory_mib=256))
    fault = reader.read("<title>T</title>" + "<p>a" * 2_000_000, None)
    assert isinstance(fault, Fault)
    assert fault.reason == "page_crashed"
    assert isinstance(reader.read(ARTICLE, None), Page)
    reader.close()


def test_a_reader_that_is_killed_or_stands_still_is_replaced() -> None:
    reader = PageReader(PageParams(seconds=0.05))
    assert isinstance(reader.read(ARTICLE, None), Page)
    assert reader._server is not None
    os.kill(reader._server.pid, signal.SIGKILL)
    assert isinstance(reader.read(ARTICLE, None), Page), "a kill from outside is not the page's fault"
    os.kill(reader._server.pid, signal.SIGSTOP)
    fault = reader.read(ARTICLE, None)
    assert isinstance(fault, Fault)
    assert (fault.reason, fault.detail) == ("page_timeout", "no answer after 1 seconds")
    assert isinstance(reader.read(ARTICLE, None), Page)
    reader.close()


def test_the_reader_ends_with_the_worker_it_belongs_to() -> None:
    script = (
        "import os, signal\n"
        "from components.core.sources import PageParams\n"
        "from components.ingest.pages import PageReader\n"
        "reader = PageReader(PageParams())\n"
        "reader.read('<title>T</title><p>x', None)\n"
        "print(reader._server.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL
    status = Path(f"/proc/{int(done.stdout)}/status")
    while status.exists() and "Z (zombie)" not in status.read_text():  # until its input has ended
        os.sched_yield()


def test_an_extractor_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.ingest.pages.find_spec", lambda name: None if name == "trafilatura" else True)
    source = SourceParams(uri="pages", pages=PageParams(extractor="trafilatura"))
    with pytest.raises(UsageError, match=r"read by trafilatura, which is not installed: pip install trafilatura"):
        ColumnMap(source)


def test_pages_become_pairs_of_title_and_text(ingest: Ingest) -> None:
    rows: list[dict[str, Any]] = [
        {"url": "http://a/1", "html": ARTICLE},
        {"url": "http://a/2", "html": "<p>" + "A page without any headline. " * 30},
        {"url": "http://a/3", "html": "<title>Only a title</title>"},
        {"url": "http://a/4", "html": 7},
        {"url": "http://a/5", "html": "<title>\ud800</title>"},
    ]
    write_bytes("pages.jsonl", json_lines(rows[:4]) + json.dumps(rows[4]).encode() + b"\n")
    train, _ = ingest({"uri": "pages.jsonl"})
    (record,) = train.read().to_pylist()
    assert (record["text"], record["text_pos"], record["url"]) == ("A journey", "\n".join(PARAGRAPHS), "http://a/1")
    assert train.ledger.dropped == {"pages": {"no_title": 1, "no_text": 1}}
    assert train.ledger.quarantined == {"pages": {"bad_text": 1, "invalid_utf8": 1}}


def test_a_crawl_gives_the_same_pairs_as_its_pages(ingest: Ingest) -> None:
    body = ARTICLE.replace("long", "漫长的").encode("gbk")
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=gbk\r\n\r\n" + body
    head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a/1\r\nContent-Length: {len(http)}\r\n"
    head += "Content-Type: application/http; msgtype=response\r\n\r\n"
    write_bytes("crawl/a.warc.gz", gzip.compress(head.encode() + http + b"\r\n\r\n"))
    write_bytes("crawl/b.html.gz", gzip.compress(body))
    train, _ = ingest({"uri": "crawl"})
    first, second = train.read().to_pylist()
    text = "\n".join(PARAGRAPHS).replace("long", "漫长的")
    assert (first["text"], first["text_pos"]) == (second["text"], second["text_pos"]) == ("A journey", text)
    assert (first["url"], second["url"]) == ("http://a/1", "crawl/b.html.gz")


def test_no_real_page_is_lost_and_news_text_is_found(reader: PageReader, shared_data: Path) -> None:
    for name, pages in (("html_news_zh", 64), ("html_trafilatura", 110)):
        with gzip.open(shared_data / name / "all.jsonl.gz", "rt", encoding="utf-8") as lines:
            htmls = [json.loads(line)["html"] for line in lines]
        read = [reader.read(html, None) for html in htmls]
        assert len(read) == pages
        assert all(isinstance(page, Page) and page.text for page in read)
        if name == "html_news_zh":
            again = [reader.read(html.encode("gb18030"), None) for html in htmls[:10]]
            assert again == read[:10], "bytes in another encoding than the page declares say the same"


def test_main_text_agrees_with_text_chosen_by_hand(reader: PageReader, shared_data: Path) -> None:
    def words(text: str) -> Counter[str]:
        return Counter(re.findall(r"\w+", text.lower()))

    scores = []
    with gzip.open(shared_data / "html_article_en" / "test.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in list(lines)[::3]:
            row = json.loads(line)
            page = reader.read(row["html"], row["url"])
            assert isinstance(page, Page)
            assert page.title
            found, gold = words(page.text), words(row["text"])
            scores.append(2 * (found & gold).total() / (found.total() + gold.total()))
    assert sum(scores) / len(scores) > 0.95
