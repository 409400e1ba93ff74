"""Web pages read by a process of their own, so that no page can hang or kill the one that ingests.

One child a worker lives as long as pages are read in time and within memory. It limits itself: address space by
RLIMIT_AS, CPU time of a page by ITIMER_PROF, whose signal ends it, in C code too. CPU time, not the clock, so that a
busy machine judges a page as an idle one does. When its parent is gone, its pipe ends and so does it.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import struct
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from components.core.carriers import Fault
from components.core.errors import UsageError
from components.core.sources import PageParams

# A child that stands still takes no CPU time: after this many times its limit, by the clock, it is given up.
PATIENCE = 20
# A child may be ended from outside; a page is the cause if a second one dies of it too.
TRIES = 2
# How a child ends that is out of memory: its heap may be in pieces, so the page is tried once more in a fresh one.
NO_MEMORY = 3
_HEADER = struct.Struct("<QQ?")
_LENGTH = struct.Struct("<Q")


class Page(NamedTuple):
    """What a page says: title and main text, each empty if it has none."""

    title: str
    text: str


class PageReader:
    """Reads pages in a child process within the limits of `params`."""

    def __init__(self, params: PageParams) -> None:
        self._params = params
        self._child: subprocess.Popen[bytes] | None = None

    def read(self, html: str | bytes, url: str | None) -> Page | Fault:
        """Title and text of a page, or why it cannot be read: too large, too deep, out of time, or a crash."""
        data = html if isinstance(html, bytes) else html.encode()
        limits = self._params
        if len(data) > limits.max_bytes:
            return Fault("page_too_large", f"{len(data):,} bytes of HTML, at most {limits.max_bytes:,} are read", "")
        ended = 0
        for _ in range(TRIES):
            try:
                answer = self._ask(data, isinstance(html, str), (url or "").encode("utf-8", "replace"))
            except TimeoutError:
                self._end()
                return Fault("page_timeout", f"no answer after {PATIENCE * limits.seconds:g} seconds", "")
            if answer is not None:
                return _decoded(answer)
            ended = self._end()
            if ended == -signal.SIGPROF:
                return Fault("page_timeout", f"took more than {limits.seconds:g} seconds of CPU time", "")
        why = f"needs more than {limits.memory_mib} MiB" if ended == NO_MEMORY else f"its reader ended with {ended}"
        return Fault("page_crashed", why, "")

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._end()

    def _ask(self, data: bytes, is_text: bool, url: bytes) -> bytes | None:
        """The child's answer; None if it has died. Raises TimeoutError if it stood still and was killed."""
        if self._child is None:
            self._child = _start(self._params)
        child = self._child
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(_HEADER.pack(len(url), len(data), is_text))
            child.stdin.write(url)
            child.stdin.write(data)
            child.stdin.flush()
        except BrokenPipeError:
            return None
        ready, _, _ = select.select([child.stdout], [], [], PATIENCE * self._params.seconds)
        if not ready:
            child.kill()
            raise TimeoutError
        head = child.stdout.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(head)
        answer = child.stdout.read(length)
        return answer if len(answer) == length else None

    def _end(self) -> int:
        """Wait for the child to be gone; returns how it ended (minus the signal)."""
        child, self._child = self._child, None
        assert child is not None and child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):
            child.stdin.close()
        child.stdout.close()
        return child.wait()


@lru_cache(maxsize=4)
def page_reader(params: PageParams) -> PageReader:
    """The reader of this process for these limits. Raises UsageError if the extractor is not installed."""
    check_extractor(params)
    return PageReader(params)


def check_extractor(params: PageParams) -> None:
    """Raise UsageError if what reads pages is not installed."""
    for module in dict.fromkeys(("resiliparse", params.extractor)):
        if find_spec(module) is None:
            wanted = "pip install 'embedmill[data]'" if module == "resiliparse" else "pip install trafilatura"
            raise UsageError(f"ingest.sources: {module} reads web pages and is not installed; {wanted}")


def serve(extractor: str, max_depth: int, seconds: float, memory_mib: int) -> None:
    """The child: read pages from standard input and answer each on standard output until the input ends."""
    import resource

    from components.ingest import extraction as html

    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing that a library prints may stand among the answers
    logging.disable(logging.CRITICAL)
    while len(head := source.read(_HEADER.size)) == _HEADER.size:
        url_length, length, is_text = _HEADER.unpack(head)
        url = source.read(url_length).decode("utf-8", "replace") or None
        data = source.read(length)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = _answer(html, extractor, max_depth, data, is_text, url)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.write(_LENGTH.pack(len(answer)))
        sink.write(answer)
        sink.flush()


def _answer(html: ModuleType, extractor: str, max_depth: int, data: bytes, is_text: bool, url: str | None) -> bytes:
    from resiliparse.parse.html import HTMLTree

    try:
        text = data.decode() if is_text else html.decode(data)
        tree = HTMLTree.parse(text)
        deep = html.depth(tree)
        if deep > max_depth:
            found = {"reason": "page_too_deep", "detail": f"{deep:,} elements inside one another, at most {max_depth}"}
        else:
            title = html.title(tree, url)
            main = html.trafilatura_text(text, url) if extractor == "trafilatura" else html.main_text(tree)
            found = {"title": title, "text": main}
        return json.dumps(found).encode()
    except MemoryError:
        os._exit(NO_MEMORY)
    except Exception as error:  # whatever a parser stumbles over is the page's fault and must not stop the others
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return json.dumps({"reason": "page_crashed", "detail": detail}).encode()


def _decoded(answer: bytes) -> Page | Fault:
    found = json.loads(answer)
    if "reason" in found:
        return Fault(found["reason"], found["detail"], "")
    return Page(found["title"], found["text"])


def _start(params: PageParams) -> subprocess.Popen[bytes]:
    limits = (params.extractor, params.max_depth, params.seconds, params.memory_mib)
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from components.ingest.pages import serve; serve{limits!r}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
