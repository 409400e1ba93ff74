"""Meta lists: data sets and how often an epoch draws their rows, one a line, as Piccolo2 is trained from.

    t2ranking.parquet 2
    # a comment
    cmrc/ 1

A path is relative to the entry's `root`, by default to the list's own folder, and may be whatever a source's uri may
be. The entry's other keys hold for every line. A count of 0 leaves the data set out.
"""

from __future__ import annotations

from components.core import storage
from components.core.errors import InputError
from components.core.sources import SourceParams


def read_meta_list(entry: SourceParams) -> list[tuple[int, SourceParams]]:
    """The sources that a list names, each with the number of its line. Raises InputError naming the line."""
    root = entry.root or entry.uri.rpartition("/")[0] or "."
    sources = []
    text = storage.read_bytes(entry.uri).decode("utf-8-sig", "replace")
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        path, count = (*line.rsplit(None, 1), "")[:2]
        if not count.isdecimal():
            raise InputError(
                f"{entry.uri}: line {number}: {line.strip()!r}, expected the path of a data set and its repeat count"
            )
        if int(count):
            path = path.strip()
            uri = path if path.startswith("/") or "://" in path else storage.join(root, path)
            line_entry = entry.changed(uri=uri, name=None, repeat=int(count) * entry.repeat, root=None)
            sources.append((number, line_entry.changed(name=f"{entry.title}.{line_entry.title}")))
    if not sources:
        raise InputError(f"{entry.uri}: names no data set; expected lines of a path and its repeat count")
    return sources
