from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest

from components.core.errors import InputError
from components.core.pinned import digest
from components.filter.domains import BlockedDomains, canonical_host, host_of
from components.filter.params import DomainListParams


def _read(path: Path, content: str | bytes) -> BlockedDomains:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return BlockedDomains.read([DomainListParams(uri=str(path), sha256=digest(str(path)))])


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://user:secret@WWW.Example.COM:8443/a?b=http://good.org#c", "www.example.com"),
        ("http://example.com./", "example.com"),
        ("example.com/path", "example.com"),
        ("//cdn.example.com/x.js", "cdn.example.com"),
        ("http://bücher.example/", "xn--bcher-kva.example"),
        ("http://XN--BCHER-KVA.example/", "xn--bcher-kva.example"),
        ("http://例え。テスト/", "xn--r8jz45g.xn--zckzah"),
        ("http://ｅｘａｍｐｌｅ.com/", "example.com"),
        ("http://ex%61mple.com/", "example.com"),
        ("http://192.168.0.1:80/", "192.168.0.1"),
        ("http://0xC0.0xA8.1/", "192.168.0.1"),
        ("http://3232235521/", "192.168.0.1"),
        ("http://[2001:DB8::0:1]:443/", "2001:db8::1"),
        ("http://[::1", None),
        ("https:///path", None),
        ("", None),
        ("http://" + "a" * 64 + ".com/", None),
        ("http://ä" + "a" * 64 + ".com/", None),
    ],
)
def test_every_spelling_of_a_host_has_one_form(url: str, host: str | None) -> None:
    assert host_of(url) == host


def test_a_domain_blocks_what_is_below_it_and_a_subdomain_only_itself(tmp_path: Path) -> None:
    blocked = _read(
        tmp_path / "list.txt",
        "\ufeff# ads\nexample.co.uk\nADS.example.com.  # one host\n\nbücher.example\r\n10.0.0.7\n2001:db8:0::1\n"
        "blogspot.com\n",
    )
    for host, met in {
        "example.co.uk": "example.co.uk",
        "a.b.example.co.uk": "example.co.uk",
        "notexample.co.uk": None,
        "other.co.uk": None,
        "co.uk": None,
        "ads.example.com": "ads.example.com",
        "x.ads.example.com": "ads.example.com",
        "example.com": None,
        "www.example.com": None,
        "xn--bcher-kva.example": "xn--bcher-kva.example",
        "10.0.0.7": "10.0.0.7",
        "1.10.0.0.7": None,
        "2001:db8::1": "2001:db8::1",
        "me.blogspot.com": "blogspot.com",
    }.items():
        assert blocked.blocks(host) == met, host


def test_hosts_files_and_packed_lists_are_read(tmp_path: Path) -> None:
    text = (
        "127.0.0.1 localhost\n::1 ip6-localhost ip6-loopback\n255.255.255.255\tbroadcasthost\nfe80::1%lo0 localhost\n"
        "0.0.0.0 0.0.0.0\n0.0.0.0 ads.example.net tracker.example.org # two\n"
    )
    expected = {"ads.example.net", "tracker.example.org"}
    assert _read(tmp_path / "hosts", text).names == expected
    assert _read(tmp_path / "hosts.gz", gzip.compress(text.encode())).names == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"example.com\nco.uk\n", r":2: 'co\.uk' is a public suffix"),
        (b"com\n", ":1: 'com' is a public suffix"),
        ("公司.cn\n".encode(), ":1: '公司.cn' is a public suffix"),
        (b"0.0.0.0 com\n", ":1: 'com' is a public suffix"),
        (b"# ok\nhttps://example.com/\n", r":2: 'https://example\.com/' is no domain"),
        (b"example.com other.com\n", r":1: 'example\.com other\.com' is no domain"),
        (b"-a.com\n", ":1: '-a.com' is no domain"),
        (b"a.com\n\xff\xfe\n", ":2: not UTF-8"),
        # no time in the header: the bytes are the test's name
        (gzip.compress(b"example.com\n" * 1000, mtime=0)[:-12], "cannot be decompressed"),
    ],
)
def test_what_is_no_list_of_domains_is_named_by_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=rf"list\.txt.*{message}" if message[0] != ":" else rf"list\.txt{message}"):
        _read(tmp_path / "list.txt", content)


def test_rows_are_matched_by_their_address_alone(tmp_path: Path) -> None:
    blocked = _read(tmp_path / "list.txt", "example.com\n")
    urls = pa.chunked_array([["http://www.example.com/1", None, "http://example.org/"], ["http://example.com:80"]])
    mask, names = blocked.rows(urls)
    assert mask.tolist() == [True, False, False, True]
    assert names == ["example.com", None, None, "example.com"]


def test_spellings_of_one_name_agree_between_list_and_address() -> None:
    for spelling in ("Straße.example", "STRASSE.example", "strasse.example."):
        assert canonical_host(spelling) == "strasse.example"
