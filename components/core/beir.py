"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each in any format that rows are carried in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from components.core import storage
from components.core.carriers import carrier_of
from components.core.errors import InputError


@dataclass(frozen=True)
class BeirFolder:
    """The files of a folder by URI; `qrels` by split, in order of name."""

    uri: str
    corpus: str
    queries: str
    qrels: Mapping[str, str]

    def choose_split(self, split: str | None) -> str:
        """The split that is meant: as named, else `train`, else the only one. Raises InputError."""
        if split is None:
            split = next(iter(self.qrels)) if len(self.qrels) == 1 else "train"
        if split not in self.qrels:
            raise InputError(f"{self.uri}: no qrels/{split}.tsv; split can be: {', '.join(self.qrels)}")
        return split


def find_beir(uri: str) -> BeirFolder:
    """The BEIR folder at `uri`. Raises InputError if a file is missing."""
    return beir_folder(uri, (info.uri for info in storage.list_files(uri)))


def beir_folder(uri: str, files: Iterable[str]) -> BeirFolder:
    """The BEIR folder that `files` make. Raises InputError naming what is missing."""
    found: dict[str, str] = {}
    qrels: dict[str, str] = {}
    for file in sorted(files):
        carrier = carrier_of(file)
        *_, parent, name = ("", *file.split("/"))
        stem = name.split(".")[0]
        if carrier is None:
            continue
        if parent == "qrels":
            qrels[stem] = file
        elif stem in ("corpus", "queries"):
            found[stem] = file
    for name, there in (("corpus.jsonl", "corpus" in found), ("queries.jsonl", "queries" in found)):
        if not there:
            raise InputError(f"{uri}: no {name}; a BEIR folder has corpus.jsonl, queries.jsonl and qrels/<split>.tsv")
    if not qrels:
        raise InputError(f"{uri}: no qrels/<split>.tsv; a BEIR folder has corpus.jsonl, queries.jsonl and qrels")
    return BeirFolder(uri, found["corpus"], found["queries"], qrels)


def is_beir(files: Iterable[str]) -> bool:
    """Whether files make a BEIR folder."""
    try:
        beir_folder("", files)
    except InputError:
        return False
    return True
