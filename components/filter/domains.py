"""Rows from blocked domains: user-supplied lists of host names, matched with the host of a row's `url`.

A name blocks itself and everything below it. Public suffixes come from the list inside `publicsuffixlist` (no network);
one of them in a list, such as `co.uk`, would block millions of owners and is an error.
"""

from __future__ import annotations

import gzip
import ipaddress
import re
import socket
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa

from components.core.errors import InputError
from components.core.pinned import fetch
from components.filter.params import DomainListParams
from components.filter.verdict import Mask

_GZIP = b"\x1f\x8b"
_ADDRESS_PARTS = re.compile(r"(0x[0-9a-f]+|\d+)(\.(0x[0-9a-f]+|\d+)){0,3}")
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
# What the hosts files of systems name beside what they block.
# fmt: off
_OWN_NAMES = {
    "localhost", "localhost.localdomain", "local", "broadcasthost", "ip6-localhost", "ip6-loopback", "ip6-localnet",
    "ip6-mcastprefix", "ip6-allnodes", "ip6-allrouters", "ip6-allhosts", "0.0.0.0",
}
# fmt: on


@dataclass(frozen=True)
class BlockedDomains:
    """Host names in their ASCII form, and IP addresses."""

    names: frozenset[str]

    @classmethod
    def read(cls, lists: Iterable[DomainListParams]) -> BlockedDomains:
        """The union of lists: one domain a line or a hosts file, `#` comments, also .gz.

        Raises InputError, with file and line, for what is no domain or a bare public suffix.
        """
        return cls(frozenset(name for each in lists for name in _read_list(each.uri, each.sha256)))

    def blocks(self, host: str) -> str | None:
        """The listed name that a host (as `host_of` gives it) is or stands below, if any."""
        if host in self.names:
            return host
        if host[-1:].isdigit() or ":" in host:
            return None  # an address has nothing above it
        labels = host.split(".")
        return next((name for i in range(1, len(labels)) if (name := ".".join(labels[i:])) in self.names), None)

    def rows(self, urls: pa.ChunkedArray) -> tuple[Mask, list[str | None]]:
        """Rows [N] whose address is blocked, and the listed name that each meets."""
        codes = urls.combine_chunks().dictionary_encode()
        met = [self.blocks(host) if (host := host_of(url)) else None for url in codes.dictionary.to_pylist()]
        indices = codes.indices.to_pylist()
        names = [None if index is None else met[index] for index in indices]
        return np.array([name is not None for name in names], bool), names


@lru_cache(maxsize=4)
def read_blocked(lists: tuple[DomainListParams, ...]) -> BlockedDomains:
    """`BlockedDomains.read`, once a process."""
    return BlockedDomains.read(lists)


def host_of(url: str) -> str | None:
    """The host of a web address in its one form: ASCII (punycode), lower case, no port, user or trailing dot.

    Addresses are written as the standard does, whatever base they are given in. None if there is no host.
    """
    url = url.strip()
    try:
        host = urlsplit(url if "://" in url else f"//{url.removeprefix('//')}").hostname
    except ValueError:
        return None
    return canonical_host(unquote(host)) if host else None


def canonical_host(host: str) -> str | None:
    """One form for every spelling of a host name or IP address; None if it is neither."""
    host = host.strip("[]")
    try:
        return ipaddress.ip_address(host.partition("%")[0]).compressed
    except ValueError:
        pass
    try:
        name = host.encode("idna").decode().lower().rstrip(".") if not host.isascii() else host.lower().rstrip(".")
    except UnicodeError:
        return None
    if _ADDRESS_PARTS.fullmatch(name):  # 0x7f.1 and 2130706433 are 127.0.0.1
        try:
            return socket.inet_ntoa(socket.inet_aton(name))
        except OSError:
            return None
    return name if _NAME.fullmatch(name) else None


def _read_list(uri: str, sha256: str) -> Iterator[str]:
    data = fetch(uri, sha256).read_bytes()
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{uri}: cannot be decompressed ({error})") from None
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{uri}:{line}: not UTF-8 ({error.reason} at byte {error.start})") from None
    for number, text in enumerate(lines, 1):
        for name in _listed(text.partition("#")[0].split()):
            host = canonical_host(name)
            if host is None:
                raise InputError(f"{uri}:{number}: {name!r} is no domain; wanted one a line, such as example.com")
            if not host[-1:].isdigit() and ":" not in host and _suffixes().privatesuffix(host) is None:
                raise InputError(f"{uri}:{number}: {name!r} is a public suffix, which would block all domains below it")
            yield host


def _listed(words: Sequence[str]) -> Sequence[str]:
    """The names of a line; a hosts file has them behind the address that they are sent to."""
    if len(words) < 2 or not _is_address(words[0]):
        return [" ".join(words)] if words else []
    return [word for word in words[1:] if word.lower() not in _OWN_NAMES]


def _is_address(word: str) -> bool:
    try:
        ipaddress.ip_address(word.partition("%")[0])
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1)
def _suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    # suffixes of registries alone: blogspot.com has an owner, and may be blocked as a whole
    return PublicSuffixList(only_icann=True)
