"""The process that reads web pages for an ingest worker: it imports little, so it starts fast and needs little memory.

A request on standard input is HEADER (length of the URL, length of the page, whether the page is UTF-8 text and not
bytes as they came), the URL and the page. The answer on standard output is LENGTH and a JSON object: `title` and
`text`, or `reason` and `detail`.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import struct
import sys

HEADER = struct.Struct("<QQ?")
LENGTH = struct.Struct("<Q")
# The exit code of a process that is out of memory.
NO_MEMORY = 3


def serve(extractor: str, max_depth: int, seconds: float, memory_mib: int) -> None:
    """Answer requests until the input ends. The signal of a page's CPU time, SIGPROF, ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing that a library prints may stand among the answers
    logging.disable(logging.CRITICAL)
    while len(head := source.read(HEADER.size)) == HEADER.size:
        url_length, length, is_text = HEADER.unpack(head)
        url = source.read(url_length).decode("utf-8", "replace") or None
        data = source.read(length)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            answer = json.dumps(_read(extractor, max_depth, data, is_text, url)).encode()
        except MemoryError:
            os._exit(NO_MEMORY)
        except Exception as error:  # what a parser stumbles over is the page's fault and must not stop the others
            detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            answer = json.dumps({"reason": "page_crashed", "detail": detail}).encode()
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.write(LENGTH.pack(len(answer)))
        sink.write(answer)
        sink.flush()


def _read(extractor: str, max_depth: int, data: bytes, is_text: bool, url: str | None) -> dict[str, str]:
    from resiliparse.parse.html import HTMLTree

    from components.ingest import extraction

    html = data.decode() if is_text else extraction.decode(data)
    tree = HTMLTree.parse(html)
    depth, blocks = extraction.outline(tree)
    if depth > max_depth:
        return {"reason": "page_too_deep", "detail": f"{depth:,} elements inside one another, at most {max_depth}"}
    title = extraction.title(tree, url)
    if extractor == "trafilatura":
        return {"title": title, "text": extraction.trafilatura_text(html, url)}
    return {"title": title, "text": extraction.main_text(tree, blocks)}
