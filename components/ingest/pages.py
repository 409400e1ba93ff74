"""Web pages read by a process of their own, so that no page can hang or kill the one that ingests.

One process a worker, which lives as long as its pages stay within their limits: address space by RLIMIT_AS, and CPU
time by ITIMER_PROF, whose signal ends it, in C code too. CPU time and not the clock, so that a busy machine judges a
page as an idle one does. When its parent is gone its input ends, and so does it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from components.core.carriers import Fault
from components.core.errors import InputError, UsageError
from components.core.sources import PageParams
from components.ingest.pageserver import HEADER, LENGTH, NO_MEMORY

# A process that stands still takes no CPU time: it is given up after this many times its limit by the clock.
PATIENCE = 20


class Page(NamedTuple):
    """What a page says: title and main text, each empty if it has none."""

    title: str
    text: str


class PageReader:
    """Reads pages within the limits of `params`, in a process that is started when it is needed."""

    def __init__(self, params: PageParams) -> None:
        self._params = params
        self._server: subprocess.Popen[bytes] | None = None
        self._served = 0

    def read(self, html: str | bytes, url: str | None) -> Page | Fault:
        """Title and text of a page, or why it cannot be read: too large, too deep, out of time, or a crash."""
        data = html if isinstance(html, bytes) else html.encode()
        if len(data) > self._params.max_bytes:
            limit = self._params.max_bytes
            return Fault("page_too_large", f"{len(data):,} bytes of HTML, at most {limit:,} are read", "")
        kills = 0
        while True:
            # the heap of a process that has read other pages may be in pieces, and any may be killed from outside: a
            # page is the cause if a fresh process dies of it, or a second one is killed
            fresh = self._served == 0
            try:
                answer = self._ask(data, isinstance(html, str), (url or "").encode("utf-8", "replace"))
            except TimeoutError:
                self.close()
                waited = PATIENCE * self._params.seconds
                return Fault("page_timeout", f"no answer after {waited:g} seconds", "")
            if answer is not None:
                self._served += 1
                found = json.loads(answer)
                if "reason" in found:
                    return Fault(found["reason"], found["detail"], "")
                return Page(found["title"], found["text"])
            ended = self.close()
            kills += ended == -signal.SIGKILL
            fault = self._fault(ended)
            if fault.reason == "page_timeout" or kills > 1 or (fresh and not kills):
                return fault

    def close(self) -> int:
        """End the process; returns its exit code, or minus the signal that had ended it."""
        server, self._server, self._served = self._server, None, 0
        if server is None:
            return 0
        assert server.stdin is not None and server.stdout is not None
        with suppress(BrokenPipeError):
            server.stdin.close()
        server.stdout.close()
        return server.wait()

    def _ask(self, data: bytes, is_text: bool, url: bytes) -> bytes | None:
        """The answer; None if the process has died. Raises TimeoutError if it stood still and was killed."""
        if self._server is None:
            self._server = _start(self._params)
        server = self._server
        assert server.stdin is not None and server.stdout is not None
        try:
            server.stdin.write(HEADER.pack(len(url), len(data), is_text))
            server.stdin.write(url)
            server.stdin.write(data)
            server.stdin.flush()
        except BrokenPipeError:
            return None
        ready, _, _ = select.select([server.stdout], [], [], PATIENCE * self._params.seconds)
        if not ready:
            server.kill()
            raise TimeoutError
        head = server.stdout.read(LENGTH.size)
        if len(head) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack(head)
        answer = server.stdout.read(length)
        return answer if len(answer) == length else None

    def _fault(self, ended: int) -> Fault:
        """Why a process ended. Raises InputError if it never began."""
        if ended == -signal.SIGPROF:
            return Fault("page_timeout", f"took more than {self._params.seconds:g} seconds of CPU time", "")
        if ended in (-signal.SIGABRT, NO_MEMORY):
            return Fault("page_crashed", f"needs more than {self._params.memory_mib} MiB of memory", "")
        if ended >= 0:
            raise InputError(f"the process that reads web pages does not start (exit code {ended})")
        return Fault("page_crashed", f"the process that read it was ended by {signal.Signals(-ended).name}", "")


@lru_cache(maxsize=4)
def page_reader(params: PageParams) -> PageReader:
    """This process's reader for these limits. Raises UsageError if what reads pages is not installed."""
    check_installed(params)
    return PageReader(params)


def check_installed(params: PageParams) -> None:
    """Raise UsageError if what reads pages is not installed."""
    for module in dict.fromkeys(("resiliparse", params.extractor)):
        if find_spec(module) is None:
            wanted = "pip install 'embedmill[data]'" if module == "resiliparse" else "pip install trafilatura"
            raise UsageError(f"ingest.sources: pages are read by {module}, which is not installed: {wanted}")


def _start(params: PageParams) -> subprocess.Popen[bytes]:
    limits = (params.extractor, params.max_depth, params.seconds, params.memory_mib)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from components.ingest.pageserver import serve; serve{limits!r}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # an allocation that fails leaves pages of backtrace
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)},
    )
