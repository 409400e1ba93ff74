"""What a model is made from: the section `ingest` of params.yaml, and data/sources.json, its entries resolved."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, model_validator

from components.core import storage
from components.core.carriers import PARQUET_RATIO, carrier_of
from components.core.errors import InputError
from components.core.fingerprint import digest_bytes, digest_json, json_document
from components.core.settings import Section

FORMAT = "embedmill-sources/1"
PYDOC = "pydoc:"
# Source text of a Python module on average, as the default packages have it.
MODULE_BYTES = 18_000
# The command that puts a stale list right; named in errors.
RESOLVE = "embedmill sources"

Task = Literal["retri_contrast", "cosent", "cls_contrast"]
Column = Literal["text", "text_pos", "text_neg", "text_pair", "label", "lang", "url", "html", "messages"]
Layout = Literal[
    "piccolo", "flagembedding", "sentence_transformers", "beir", "classification", "chat", "documents", "pages"
]
# What the rows of a layout can train; any task where a layout is not listed.
LAYOUT_TASKS: Mapping[Layout, tuple[Task, ...]] = {
    "flagembedding": ("retri_contrast", "cls_contrast"),
    "sentence_transformers": ("retri_contrast", "cosent"),
    "beir": ("retri_contrast",),
    "classification": ("cls_contrast",),
    "chat": ("retri_contrast",),
    "documents": ("retri_contrast",),
    "pages": ("retri_contrast",),
}
# A file that names data sets and how often each is repeated, one a line, as Piccolo2's meta lists do.
META_LISTS = (".txt", ".list")

# What the dependencies of this project bring along, by import name; packages of a few objects only are left out.
# fmt: off
DEFAULT_PACKAGES = (
    "PIL", "aiohttp", "alembic", "anyio", "asyncssh", "attr", "boto3", "botocore", "celery", "click", "cryptography",
    "databricks", "dateutil", "docker", "dulwich", "dvc", "faiss", "fastapi", "filelock", "flask", "fontTools",
    "fsspec", "git", "google", "graphql", "gunicorn", "httpx2", "huey", "huggingface_hub", "hydra", "jinja2",
    "joblib", "kombu", "mako", "markdown_it", "matplotlib", "mlflow", "mpl_toolkits", "mpmath", "narwhals",
    "networkx", "numpy", "opentelemetry", "packaging", "pandas", "prompt_toolkit", "psutil", "pyarrow", "pyasn1",
    "pydantic", "pygit2", "pygments", "pyparsing", "requests", "rich", "s3transfer", "scipy", "sentence_transformers",
    "setuptools", "sklearn", "sqlalchemy", "sqlparse", "sympy", "tokenizers", "torch", "tqdm", "transformers",
    "urllib3", "wcwidth", "werkzeug",
)
# fmt: on


class PageParams(Section):
    """How web pages are read. A page over a limit is quarantined; the next one is read by a new process."""

    extractor: Literal["resiliparse", "trafilatura"] = Field(
        default="resiliparse",
        description="Finds the main text; trafilatura must be installed (pip install trafilatura).",
    )
    max_bytes: int = Field(default=10_000_000, ge=1, description="Bytes of HTML (page_too_large).")
    max_depth: int = Field(
        default=512, ge=8, description="Elements inside one another, as browsers allow (page_too_deep)."
    )
    seconds: float = Field(default=10, gt=0, le=3600, description="CPU seconds for one page (page_timeout).")
    memory_mib: int = Field(default=1024, ge=256, description="Address space of the reading process (page_crashed).")


class SourceParams(Section):
    """One entry of `ingest.sources`: a file, folder, glob or S3 prefix of rows, a meta list of such, or `pydoc:`."""

    uri: str = Field(
        min_length=1, description="Path, folder, glob, s3://bucket/prefix, a meta list (.txt, .list), or 'pydoc:'."
    )
    name: str | None = Field(
        default=None,
        pattern=r"^[\w.-]+$",
        description="Name in ledgers; by default the file's or folder's.",
    )
    layout: Layout | None = Field(
        default=None, description="Files: how a row is laid out; by default its columns tell."
    )
    task: Task | None = Field(default=None, description="Files: what the rows train; by default their layout says it.")
    columns: dict[Column, str] = Field(
        default_factory=dict, description="Files: column of a record → column of the file, where the names differ."
    )
    split: str | None = Field(
        default=None, min_length=1, description="beir: the file qrels/<split>.tsv; by default train, or the only one."
    )
    pages: PageParams = Field(default_factory=PageParams, description="pages: how HTML is read, and its limits.")
    repeat: int = Field(default=1, ge=1, description="Files: how often an epoch of training draws each row.")
    root: str | None = Field(
        default=None, min_length=1, description="Meta list: folder that its paths begin at; by default the list's own."
    )
    where: dict[str, str | float] = Field(
        default_factory=dict, description="Files: column of the file → value; other rows are dropped."
    )
    labels: dict[str, float] = Field(default_factory=dict, description="Files: label text → number (cosent).")
    lang: str | None = Field(
        default=None,
        pattern=r"^[a-z]{2,3}$",
        description="Language of every row, ISO 639 code such as en or zh; by default it is detected.",
    )
    holdout: float = Field(
        default=0.0, ge=0, lt=1, description="Share kept for evaluation: of pydoc's modules, of files' distinct texts."
    )
    packages: tuple[str, ...] = Field(default=(), description="pydoc: packages, by import or distribution name.")
    stdlib: bool = Field(default=False, description="pydoc: the standard library too.")
    structure_rows: int = Field(default=10_000, ge=0, description="pydoc: at most this many graded pairs (cosent).")
    class_rows: int = Field(default=10_000, ge=0, description="pydoc: at most this many texts with their package.")
    passage_chars: int = Field(default=2000, ge=100, description="pydoc: passages are cut to this many characters.")

    @model_validator(mode="after")
    def _fits_kind(self) -> SourceParams:
        given = self.model_fields_set
        if self.is_pydoc:
            wrong = given & {"task", "layout", "columns", "where", "labels", "split", "pages", "repeat", "root"}
            if not self.packages and not self.stdlib:
                raise ValueError("a source 'pydoc:' needs 'packages', 'stdlib: true' or both")
        else:
            wrong = given & {"packages", "stdlib", "structure_rows", "class_rows", "passage_chars"}
        if wrong:
            kind = "a source 'pydoc:'" if self.is_pydoc else "a source of files"
            raise ValueError(f"{kind} takes no {', '.join(sorted(wrong))}")
        if self.layout and self.task and self.task not in LAYOUT_TASKS.get(self.layout, (self.task,)):
            allowed = " or ".join(LAYOUT_TASKS[self.layout])
            raise ValueError(f"rows of layout {self.layout} train {allowed}, not {self.task}")
        if self.split and self.layout not in (None, "beir"):
            raise ValueError(f"split is for layout beir, not {self.layout}")
        if self.root and not self.is_meta_list:
            raise ValueError(f"root is for a meta list ({' or '.join(META_LISTS)}), and {self.uri} is none")
        return self

    @property
    def is_pydoc(self) -> bool:
        """Whether this is the documentation of installed packages rather than files."""
        return self.uri == PYDOC

    @property
    def is_meta_list(self) -> bool:
        """Whether this is a list of data sets with their repeat counts."""
        return self.uri.lower().endswith(META_LISTS)

    def changed(self, **fields: Any) -> SourceParams:
        """The same entry but for some keys (None: not given)."""
        given = self.model_dump(exclude_unset=True) | fields
        return SourceParams.model_validate({key: value for key, value in given.items() if value is not None})

    @cached_property
    def title(self) -> str:
        """The name in ledgers and reports: as given, or the last part of the URI that says something."""
        if self.name is not None:
            return self.name
        for part in reversed(PurePosixPath(self.uri).parts):
            stem = part.split(".")[0] if carrier_of(part) or part.lower().endswith(META_LISTS) else part
            plain = re.sub(r"\[[^]]*\]|[^\w.-]+", "", stem).strip("._-")
            if plain:
                return plain
        return "files"


DEFAULT_SOURCES = (SourceParams(uri=PYDOC, stdlib=True, packages=DEFAULT_PACKAGES, holdout=0.08, lang="en"),)


class IngestParams(Section):
    """Section `ingest` of params.yaml."""

    sources: tuple[SourceParams, ...] = Field(
        default=DEFAULT_SOURCES, min_length=1, description="Where the text comes from."
    )
    shard_bytes: int = Field(default=16 << 20, ge=1, description="Bytes of text in a shard; bounds memory.")

    @model_validator(mode="after")
    def _distinct_names(self) -> IngestParams:
        titles = [source.title for source in self.sources]
        for index, title in enumerate(titles):
            if titles.index(title) != index:
                raise ValueError(f"sources {titles.index(title)} and {index} are both named {title!r}; give one a name")
        return self


@dataclass(frozen=True)
class SourceInput:
    """One concrete input: a file (`size` in bytes) or an installed package (`size` in modules)."""

    uri: str
    digest: str
    size: int
    version: str | None = None


@dataclass(frozen=True)
class ResolvedSource:
    """An entry and its inputs, sorted by URI. `ignored` are files of a folder that carry no rows.

    `listed` is the entry as params.yaml has it, where reading it took more than listing files: a meta list, whose
    every line is a source, or a BEIR folder, whose split was found.
    """

    params: SourceParams
    inputs: tuple[SourceInput, ...]
    ignored: tuple[str, ...] = ()
    listed: SourceParams | None = None

    @property
    def entry(self) -> SourceParams:
        """The entry of `ingest.sources` that this comes from."""
        return self.listed or self.params


def expected_tasks(sources: Sequence[ResolvedSource], shard_bytes: int) -> int:
    """About how many tasks ingest will have: enough to say how many pods should share them. Opens no file."""
    return ceil(sum(_expected(each, source.params, shard_bytes) for source in sources for each in source.inputs))


def _expected(each: SourceInput, params: SourceParams, shard_bytes: int) -> float:
    """The share of a task that an input is, if it is small, or the tasks that it is cut into."""
    if params.is_pydoc:
        return each.size * MODULE_BYTES / shard_bytes
    carrier = carrier_of(each.uri)
    assert carrier is not None, each.uri
    text_bytes = each.size * (PARQUET_RATIO if carrier.format == "parquet" else 1)
    can_be_cut = carrier.compression is None and carrier.format in ("jsonl", "parquet")
    return text_bytes / shard_bytes if can_be_cut else min(1.0, text_bytes / shard_bytes)


def encode_sources(sources: Sequence[ResolvedSource]) -> bytes:
    """The bytes of data/sources.json: equal sources give equal bytes."""
    entries = [
        {
            "name": source.params.title,
            "entry": source.params.model_dump(mode="json", exclude_defaults=True),
            "inputs": [
                {key: value for key, value in vars(each).items() if value is not None} for each in source.inputs
            ],
            **({"ignored": list(source.ignored)} if source.ignored else {}),
            **({"listed": source.listed.model_dump(mode="json", exclude_defaults=True)} if source.listed else {}),
        }
        for source in sources
    ]
    return json_document({"format": FORMAT, "sources": entries})


def data_version(sources: bytes, suite: bytes) -> str:
    """SHA-256 (hex) of all that a run reads: the list of sources and that of the suite's files, with their digests."""
    return digest_json([digest_bytes(sources), digest_bytes(suite)])


def read_sources(uri: str) -> list[ResolvedSource]:
    """Read data/sources.json. Raises InputError if it is none."""
    try:
        value: dict[str, Any] = json.loads(storage.read_bytes(uri))
        if value["format"] != FORMAT:
            raise InputError(f"{uri}: format is {value['format']!r}, expected {FORMAT!r}; run `{RESOLVE}`")
        return [
            ResolvedSource(
                SourceParams.model_validate(entry["entry"]),
                tuple(SourceInput(**each) for each in entry["inputs"]),
                tuple(entry.get("ignored", ())),
                SourceParams.model_validate(entry["listed"]) if "listed" in entry else None,
            )
            for entry in value["sources"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{uri}: not a list of sources ({type(error).__name__}); run `{RESOLVE}`") from None
