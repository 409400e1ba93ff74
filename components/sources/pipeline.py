"""The step `sources`: entries of ingest.sources and evaluate.suite become files, each with a digest of its content.

It runs every time, so that new files, new feedback and newly installed versions start the rest of the chain; the list
is replaced only if it has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from components.core import storage
from components.core.beir import beir_folder, is_beir
from components.core.carriers import COMPRESSIONS, FORMATS, row_files
from components.core.errors import InputError
from components.core.fingerprint import digest_json, json_document
from components.core.installed import STDLIB, find_package
from components.core.sources import (
    PYDOC,
    IngestParams,
    ResolvedSource,
    SourceInput,
    SourceParams,
    encode_sources,
)
from components.core.step import Context
from components.core.storage import FileInfo
from components.core.suite import EvaluateParams, SuiteParams
from components.sources.digests import FileDigests
from components.sources.metalist import read_meta_list
from components.sources.step import FEEDBACK


def run(ctx: Context) -> None:
    """Write the list of sources. Raises InputError for an entry that leads to nothing."""
    digests = FileDigests()
    feedback = ctx.inputs.get("feedback", FEEDBACK)
    sources = list_sources(ctx.section(IngestParams).sources, feedback, digests)
    suite = list_suite(ctx.section(EvaluateParams).suite, digests)
    digests.save()
    _replace(ctx.outputs["output"], encode_sources(sources))
    _replace(ctx.outputs["suite"], json_document(suite))
    inputs = sum(len(source.inputs) for source in sources)
    ctx.log(f"{_count(len(sources), 'source')}, {_count(inputs, 'input')}")


def list_sources(entries: Sequence[SourceParams], feedback: str, digests: FileDigests) -> list[ResolvedSource]:
    """Entries with their inputs, and the feedback if there is any. Raises InputError for one that leads to nothing."""
    sources: list[ResolvedSource] = []
    for index, entry in enumerate(entries):
        sources += resolve(entry, f"ingest.sources[{index}]", digests)
    _check_names(sources)
    return sources + (read_feedback(feedback) if storage.exists(feedback) else [])


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def resolve(entry: SourceParams, where: str, digests: FileDigests) -> list[ResolvedSource]:
    """An entry with its inputs, sorted; of a meta list one for each line. `where` names the entry in errors."""
    if entry.is_pydoc:
        return [ResolvedSource(entry, tuple(_packages(entry, where)))]
    if not entry.is_meta_list:
        return [_files(entry, where, digests)]
    sources = []
    for number, line in read_meta_list(entry):
        source = _files(line, f"{where}: {entry.uri} line {number}", digests)
        sources.append(replace(source, listed=entry))
    return sources


def _files(entry: SourceParams, where: str, digests: FileDigests) -> ResolvedSource:
    """The files of an entry. Raises InputError if it leads to nothing."""
    found = storage.list_files(entry.uri)
    uris = [info.uri for info in found]
    may_be_beir = entry.layout is None and entry.task in (None, "retri_contrast")
    if entry.layout == "beir" or entry.split or (may_be_beir and is_beir(uris)):
        return _beir(entry, found, digests)
    readable = set(row_files(uris))
    if not readable:
        raise InputError(f"{where}: {entry.uri}: {_nothing(entry.uri, len(found))}")
    inputs = [SourceInput(info.uri, _digest(info, digests), info.size) for info in found if info.uri in readable]
    return ResolvedSource(entry, tuple(inputs), tuple(uri for uri in uris if uri not in readable))


def _beir(entry: SourceParams, found: Sequence[FileInfo], digests: FileDigests) -> ResolvedSource:
    """A BEIR folder: rows are the judgements of one split, which depend on queries and corpus too."""
    folder = beir_folder(entry.uri, [info.uri for info in found])
    split = folder.choose_split(entry.split)
    judged = folder.qrels[split]
    needed = {info.uri: info for info in found if info.uri in (judged, folder.queries, folder.corpus)}
    digest = digest_json([_digest(needed[uri], digests) for uri in (judged, folder.queries, folder.corpus)])
    params = entry.changed(layout="beir", split=split)
    ignored = tuple(info.uri for info in found if info.uri not in needed)
    return ResolvedSource(params, (SourceInput(judged, digest, needed[judged].size),), ignored, entry)


def _check_names(sources: Sequence[ResolvedSource]) -> None:
    """Raise InputError for two sources of one name; entries have been checked, lines of meta lists not yet."""
    seen: dict[str, ResolvedSource] = {}
    for source in sources:
        other = seen.setdefault(source.params.title, source)
        if other is not source:
            raise InputError(
                f"{source.entry.uri}: {source.params.uri} and {other.params.uri} are both named "
                f"{source.params.title!r}; a meta list names each data set once, with its count"
            )


def read_feedback(uri: str) -> list[ResolvedSource]:
    """The current version of the flywheel's feedback as a source; none while it has no files. Raises InputError."""
    try:
        current = json.loads(storage.read_bytes(uri))
        files = [(str(each["uri"]), str(each["sha256"])) for each in current["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{uri}: not a pointer to a feedback version ({type(error).__name__}: {error})") from None
    entry = SourceParams(
        uri=uri,
        name="feedback",
        task="retri_contrast",
        columns={"text": "query", "text_pos": "clicked", "text_neg": "skipped"},
    )
    inputs = []
    for file, sha256 in sorted(files):
        found = storage.list_files(file)
        if not found:
            raise InputError(f"{uri}: lists {file}, which is not there")
        inputs.append(SourceInput(file, f"sha256:{sha256}", found[0].size))
    return [ResolvedSource(entry, tuple(inputs))] if inputs else []


def list_suite(entries: Sequence[SuiteParams], digests: FileDigests) -> dict[str, dict[str, str]]:
    """The digests of every file that a task of the suite is read from, by task and URI.

    Filter, export and evaluate take the list as an input, so that a changed file is measured on again. Raises
    InputError for an entry that leads to nothing.
    """
    suite: dict[str, dict[str, str]] = {}
    for index, entry in enumerate(entries):
        if entry.uri is None:
            continue
        found = storage.list_files(entry.uri)
        if not found:
            raise InputError(f"evaluate.suite[{index}]: {entry.uri}: {_nothing(entry.uri, 0)}")
        suite[entry.name] = {info.uri: _digest(info, digests) for info in found}
    return suite


def _digest(info: FileInfo, digests: FileDigests) -> str:
    if not storage.is_local(info.uri):
        return f"etag:{info.digest_hint}"
    return f"sha256:{digests.of(storage.local_path(info.uri))}"


def _replace(uri: str, data: bytes) -> None:
    """Write a file only if that changes it: an untouched one costs no step after this any time."""
    if not storage.exists(uri) or storage.read_bytes(uri) != data:
        storage.write_bytes(uri, data)


def _packages(entry: SourceParams, where: str) -> Iterator[SourceInput]:
    names = sorted({*entry.packages, *([STDLIB] if entry.stdlib else [])})
    for name in names:
        package = find_package(name)
        if package is None:
            raise InputError(f"{where}: package {name!r} is not installed; name an import package or a distribution")
        modules = len(package.modules)
        yield SourceInput(f"{PYDOC}{name}", digest_json([package.version, modules]), modules, package.version)


def _nothing(uri: str, others: int) -> str:
    suffixes = f"{', '.join(f'.{each}' for each in FORMATS)} (or with {', '.join(f'.{each}' for each in COMPRESSIONS)})"
    if others:
        return f"no file that rows can be read from (others: {others}); wanted {suffixes}"
    if any(character in uri for character in storage.MAGIC):
        return "the pattern matches no file"
    if storage.is_local(uri) and storage.local_path(uri).is_dir():
        return "the folder is empty"
    return "no such file, folder or prefix" if storage.is_local(uri) else "no object with this key or prefix"
