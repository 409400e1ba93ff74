"""Datasets: Parquet shards, the rejected rows beside them, and a manifest that vouches for their bytes.

A folder or prefix without `manifest.json` is no dataset. Nothing in one depends on time, host, worker count or the
number of restarts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.core import storage
from components.core.errors import InputError
from components.core.fingerprint import digest_bytes
from components.core.ledger import Ledger
from components.core.records import REJECTED_SCHEMA, SCHEMA

FORMAT = "embedmill-dataset/2"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Shard:
    """A finished shard as the manifest lists it; `name` has no suffix, sizes are in bytes, digests are SHA-256."""

    name: str
    task: str
    position: int
    rows: int
    bytes: int
    sha256: str
    rejected_rows: int
    rejected_bytes: int
    rejected_sha256: str
    fingerprint: str
    ledger: dict[str, Any]
    stats: dict[str, float]


class Dataset:
    """A committed dataset. Reading verifies each shard against the manifest."""

    def __init__(self, uri: str, manifest: Mapping[str, Any], digest: str) -> None:
        self.uri = uri
        self.digest = digest
        self.step: str = manifest["step"]
        self.fingerprint: str = manifest["fingerprint"]
        self.made_from: str | None = manifest.get("made_from")
        self.reports: dict[str, str] = manifest.get("reports", {})
        self.shards = [Shard(**shard) for shard in manifest["shards"]]
        self.stats: dict[str, float] = manifest["stats"]
        self.ledger = Ledger.from_dict(manifest["ledger"])

    @classmethod
    def open(cls, uri: str) -> Dataset:
        """Open a dataset. Raises InputError if there is no manifest or it is not one of ours."""
        path = storage.join(uri, MANIFEST)
        if not storage.exists(path):
            raise InputError(f"{uri}: no {MANIFEST}, so this is no finished dataset; run the step that makes it")
        data = storage.read_bytes(path)
        try:
            manifest = json.loads(data)
            if manifest["format"] != FORMAT:
                raise InputError(f"{path}: format is {manifest['format']!r}, expected {FORMAT!r}")
            return cls(uri, manifest, digest_bytes(data))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a dataset manifest ({type(error).__name__}: {error})") from None

    @cached_property
    def rows(self) -> int:
        """Number of records."""
        return sum(shard.rows for shard in self.shards)

    def read_shard(self, shard: Shard, columns: Sequence[str] | None = None, verify: bool = True) -> pa.Table:
        """The records of one shard. Raises InputError if its bytes are not those that the manifest vouches for."""
        return _read_table(shard_uri(self.uri, shard.name), shard.sha256 if verify else None, columns)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All records, shard by shard in order."""
        schema = SCHEMA if columns is None else pa.schema([SCHEMA.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *(self.read_shard(shard, columns) for shard in self.shards)])

    def read_rejected(self, shards: Sequence[Shard] | None = None) -> pa.Table:
        """All rejected rows, or those of some shards, shard by shard in order."""
        listed = self.shards if shards is None else shards
        tables = [_read_table(rejected_uri(self.uri, shard.name), shard.rejected_sha256) for shard in listed]
        return pa.concat_tables([REJECTED_SCHEMA.empty_table(), *tables])


def shard_uri(uri: str, name: str) -> str:
    """Where the records of a shard are."""
    return storage.join(uri, "shards", f"{name}.parquet")


def rejected_uri(uri: str, name: str) -> str:
    """Where the rejected rows of a shard are."""
    return storage.join(uri, "rejected", f"{name}.parquet")


def _read_table(uri: str, sha256: str | None, columns: Sequence[str] | None = None) -> pa.Table:
    data = storage.read_bytes(uri)
    if sha256 is not None and digest_bytes(data) != sha256:
        raise InputError(f"{uri}: altered since its manifest was written (SHA-256 differs); run the step that makes it")
    return pq.read_table(pa.BufferReader(data), columns=None if columns is None else list(columns))
