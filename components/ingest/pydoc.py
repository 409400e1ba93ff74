"""The source `pydoc:`: documentation in the source files of installed packages, as records of all three tasks.

Each documented object gives two retrieval rows with the same passage: in the form "named" the query is its qualified
name in words and its summary, in the form "summary" the summary alone.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import xxhash

from components.core.build import ShardOutput
from components.core.errors import InputError
from components.core.fingerprint import digest_json
from components.core.installed import Module, find_package
from components.core.records import record_table, rejected_table
from components.core.sources import PYDOC, RESOLVE, ResolvedSource, SourceParams
from components.ingest.holdout import is_held_out
from components.ingest.structure import class_rows, graded_rows
from components.ingest.syntax import DocObject, documented_objects, humanise

# Source text that one shard reads: about two seconds of parsing.
SHARD_BYTES = 16 << 20


@dataclass(frozen=True)
class PydocPart:
    """The modules that hash to one shard; graded pairs and class rows are drawn among them, up to the given numbers."""

    source: SourceParams
    modules: tuple[Module, ...]
    structure_rows: int
    class_rows: int

    @property
    def megabytes(self) -> float:
        """Size of its source files."""
        return sum(module.size for module in self.modules) / 1e6


def pydoc_parts(source: ResolvedSource, held_out: bool) -> list[tuple[str, PydocPart]]:
    """The parts of the training or the held-out side, each with the digest of what it depends on.

    Modules are dealt to parts by the hash of their name: every part has some of every package and all of a module.
    """
    params = source.params
    modules = [module for each in source.inputs for module in _modules_of(each.uri)]
    modules = [module for module in modules if is_held_out(module.name, params.holdout) == held_out]
    number = sum(module.size for module in modules) // SHARD_BYTES + 1
    share = (params.holdout if held_out else 1 - params.holdout) / number
    parts: list[list[Module]] = [[] for _ in range(number)]
    for module in modules:
        parts[xxhash.xxh3_64_intdigest(module.name.encode(), seed=1) % number].append(module)
    inputs = [[each.uri, each.digest] for each in source.inputs]
    return [
        (
            digest_json([params.model_dump(mode="json"), inputs, held_out, number, index]),
            PydocPart(params, tuple(part), round(params.structure_rows * share), round(params.class_rows * share)),
        )
        for index, part in enumerate(parts)
        if part
    ]


def pydoc_shard(part: PydocPart) -> ShardOutput:
    """Read a part's modules. One that does not parse is quarantined, under the source's own name, with its line."""
    name, params = part.source.title, part.source
    objects: list[DocObject] = []
    bad: list[dict[str, Any]] = []
    with _no_garbage_collection():
        for module in part.modules:
            try:
                objects += documented_objects(module)
            except (SyntaxError, ValueError, RecursionError) as error:
                line = getattr(error, "lineno", None) or 1
                detail = f"{module.relative}: {type(error).__name__}: {getattr(error, 'msg', error)}"
                bad.append(
                    {
                        "kind": "quarantined",
                        "reason": "not_python",
                        "detail": detail,
                        "source": name,
                        "offset": line - 1,
                    }
                )
    rows = [row for each in objects for row in _retrieval_rows(each, name, params.passage_chars)]
    rows += graded_rows(objects, part.structure_rows, name, params.passage_chars)
    rows += class_rows(objects, part.class_rows, name, params.passage_chars)
    return ShardOutput(
        kept=record_table([{**row, "lang": params.lang} for row in rows]),
        rejected=rejected_table(bad),
        rows_in=Counter([row["source"] for row in rows] + [name] * len(bad)),
        stats={"modules": len(part.modules), "objects": len(objects)},
    )


def _retrieval_rows(each: DocObject, source: str, passage_chars: int) -> Iterator[dict[str, Any]]:
    passage = each.passage(passage_chars)
    for form, query in (("named", f"{humanise(each.name)}. {each.summary}"), ("summary", each.summary)):
        yield {
            "task": "retri_contrast",
            "text": query,
            "text_pos": passage,
            "source": f"{source}.{form}",
            "url": each.url,
            "meta": {"group": each.module, "object": each.name, "form": form},
        }


def _modules_of(uri: str) -> tuple[Module, ...]:
    package = find_package(uri.removeprefix(PYDOC))
    if package is None:
        raise InputError(f"{uri}: no such package is installed any more; run `{RESOLVE}`")
    return package.modules


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Syntax trees are large and free of cycles: collecting while they grow triples the time of parsing."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
