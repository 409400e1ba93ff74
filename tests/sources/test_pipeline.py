from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.core import storage
from components.core.errors import InputError
from components.core.settings import RunParams, parse_section
from components.core.sources import IngestParams, ResolvedSource, read_sources
from components.core.step import Context
from components.core.suite import EvaluateParams
from components.sources import digests
from components.sources.pipeline import run
from tests.fixtures.installed import AddPackage
from tests.fixtures.seaweed import S3Bucket

Resolve = Callable[..., list[ResolvedSource]]
OUTPUT = "data/sources.json"
SUITE = "data/suite.json"
HELDOUT = ({"name": "own", "type": "heldout"},)


@pytest.fixture
def resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Runs the step on the given entries in `tmp_path`; returns what it wrote."""
    monkeypatch.chdir(tmp_path)

    def resolve_entries(*entries: dict[str, Any], suite: Sequence[dict[str, Any]] = HELDOUT) -> list[ResolvedSource]:
        section = parse_section("ingest", IngestParams, {"sources": list(entries)}, "params.yaml")
        sections = {
            "ingest": section,
            "evaluate": parse_section("evaluate", EvaluateParams, {"suite": suite}, "p.yaml"),
        }
        run(Context("sources", RunParams(), sections, {}, {"output": OUTPUT, "suite": SUITE}))
        return read_sources(OUTPUT)

    return resolve_entries


def files(uri: str, **entry: Any) -> dict[str, Any]:
    return {"uri": uri, "task": "retri_contrast", **entry}


def write(*names: str) -> None:
    for name in names:
        storage.write_bytes(name, name.encode())


def uris(source: ResolvedSource) -> list[str]:
    return [each.uri for each in source.inputs]


def test_files_folders_and_patterns_become_sorted_inputs(resolve: Resolve) -> None:
    write("b.csv", "more/b/2.jsonl.gz", "more/a.parquet", "more/README.md", "more/b/1.jsonl.gz")
    one, folder, pattern, deep = resolve(
        files("b.csv"), files("more"), files("more/*/*.gz", name="gz"), files("**/*.jsonl.gz", name="deep")
    )
    assert uris(one) == ["b.csv"]
    assert one.inputs[0].size == 5
    assert uris(folder) == ["more/a.parquet", "more/b/1.jsonl.gz", "more/b/2.jsonl.gz"]
    assert folder.ignored == ("more/README.md",)
    assert uris(pattern) == uris(deep) == ["more/b/1.jsonl.gz", "more/b/2.jsonl.gz"]


def test_json_is_rows_unless_it_describes_other_files(resolve: Resolve) -> None:
    write("saved/data-00000-of-00001.arrow", "saved/dataset_info.json", "saved/state.json", "lines/train.json")
    saved, lines = resolve(files("saved"), files("lines"))
    assert uris(saved) == ["saved/data-00000-of-00001.arrow"]
    assert saved.ignored == ("saved/dataset_info.json", "saved/state.json")
    assert uris(lines) == ["lines/train.json"]


def test_the_list_changes_with_content_alone(resolve: Resolve) -> None:
    write("a.jsonl")
    before = resolve(files("a.jsonl"))
    written = Path(OUTPUT).stat().st_ino
    os.utime("a.jsonl", ns=(1, 1))
    assert resolve(files("a.jsonl")) == before
    assert Path(OUTPUT).stat().st_ino == written, "an unchanged list must not be written again"
    storage.write_bytes("a.jsonl", b"other..")
    assert resolve(files("a.jsonl"))[0].inputs[0].digest != before[0].inputs[0].digest


def test_an_unchanged_file_is_read_once(resolve: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.jsonl", "b.jsonl")
    before = resolve(files("*.jsonl"))
    read: list[Path] = []

    def spy(path: Path) -> str:
        read.append(path)
        return "x"

    monkeypatch.setattr(digests, "digest_file", spy)
    assert resolve(files("*.jsonl")) == before
    assert read == []
    Path(digests.CACHE).write_text("{broken")
    resolve(files("*.jsonl"))
    assert len(read) == 2


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("none.jsonl", r"ingest\.sources\[1\]: none\.jsonl: no such file, folder or prefix"),
        ("*.parquet", r"ingest\.sources\[1\]: \*\.parquet: the pattern matches no file"),
        (
            "docs",
            r"ingest\.sources\[1\]: docs: no file that rows can be read from \(others: 1\); wanted \.jsonl, \.csv",
        ),
        ("docs/a.md", r"ingest\.sources\[1\]: docs/a\.md: no file that rows can be read from"),
        ("void", r"ingest\.sources\[1\]: void: the folder is empty"),
        ("ftp://x/y.csv", r"ftp://x/y\.csv: only local paths, file://, s3://"),
    ],
)
def test_an_entry_that_leads_nowhere_is_named(resolve: Resolve, uri: str, message: str) -> None:
    write("a.jsonl", "docs/a.md")
    Path("void").mkdir()
    with pytest.raises(InputError, match=message):
        resolve(files("a.jsonl"), files(uri, name="wrong"))


def test_objects_below_a_prefix_are_listed_with_their_etag(resolve: Resolve, s3: S3Bucket) -> None:
    write(f"{s3.uri}/corpus/b.csv", f"{s3.uri}/corpus/a.jsonl", f"{s3.uri}/corpus-2/c.jsonl")
    before = resolve(files(f"{s3.uri}/corpus/"))
    assert uris(before[0]) == [f"{s3.uri}/corpus/a.jsonl", f"{s3.uri}/corpus/b.csv"]
    assert before[0].inputs[0].digest.startswith("etag:")
    assert before[0].params.title == "corpus"
    storage.write_bytes(f"{s3.uri}/corpus/b.csv", b"changed")
    assert resolve(files(f"{s3.uri}/corpus/"))[0].inputs[1].digest != before[0].inputs[1].digest
    with pytest.raises(InputError, match="no object with this key or prefix"):
        resolve(files(f"{s3.uri}/none/"))


def test_packages_are_known_by_version_and_number_of_modules(resolve: Resolve, site: AddPackage) -> None:
    site(
        "alpha-lib",
        {"alpha/__init__.py": "", "alpha/io.py": "", "alpha/tests/test_io.py": "", "alpha/_c.so": ""},
        "1.2",
    )
    site("spread", {"space/one.py": "", "single.py": ""}, "3.0")
    site("spread-more", {"space/two.py": ""}, "4.0")
    names = ("alpha-lib", "alpha", "space", "single", "Spread_More")
    entry = {"uri": "pydoc:", "packages": list(names)}
    found = {each.uri: (each.version, each.size) for each in resolve(entry)[0].inputs}
    assert found == {
        "pydoc:alpha": ("alpha-lib 1.2", 2),
        "pydoc:alpha-lib": ("alpha-lib 1.2", 2),
        "pydoc:space": ("spread 3.0, spread-more 4.0", 2),
        "pydoc:single": ("spread 3.0", 1),
        "pydoc:Spread_More": ("spread 3.0, spread-more 4.0", 2),
    }
    with pytest.raises(InputError, match=r"ingest\.sources\[0\]: package 'omega' is not installed"):
        resolve({"uri": "pydoc:", "packages": ["alpha", "omega"]})


def test_the_standard_library_is_found_without_its_tests_and_private_modules(resolve: Resolve) -> None:
    source = resolve({"uri": "pydoc:", "stdlib": True})[0]
    assert uris(source) == ["pydoc:stdlib"]
    assert str(source.inputs[0].version).startswith("Python 3.")
    assert 400 < source.inputs[0].size < 1000
    assert str(Path.cwd()) not in Path(OUTPUT).read_text()


def test_the_current_feedback_is_a_source(resolve: Resolve) -> None:
    write("a.jsonl", "data/feedback/files/1.jsonl", "data/feedback/files/0.jsonl")
    listed = [{"uri": f"data/feedback/files/{n}.jsonl", "sha256": f"{n}" * 64, "rows": 3} for n in (1, 0)]
    pointer = {"version": "f" * 64, "files": listed}
    storage.write_bytes("data/feedback/current.json", json.dumps(pointer).encode())
    feedback = resolve(files("a.jsonl"))[1]
    assert uris(feedback) == ["data/feedback/files/0.jsonl", "data/feedback/files/1.jsonl"]
    assert feedback.inputs[0].digest == "sha256:" + "0" * 64
    assert feedback.params.title == "feedback"
    assert feedback.params.columns == {"text": "query", "text_pos": "clicked", "text_neg": "skipped"}
    storage.remove("data/feedback/files/0.jsonl")
    with pytest.raises(InputError, match=r"current\.json: lists data/feedback/files/0\.jsonl, which is not there"):
        resolve(files("a.jsonl"))
    storage.write_bytes("data/feedback/current.json", b'{"files": [{}]}')
    with pytest.raises(InputError, match="not a pointer to a feedback version"):
        resolve(files("a.jsonl"))


def test_a_list_that_is_none_is_refused(tmp_path: Path) -> None:
    for data, message in (
        (b"{}", "not a list of sources"),
        (b'{"format": "x"}', "format is 'x'"),
        (b"[", "not a list"),
    ):
        storage.write_bytes(str(tmp_path / "s.json"), data)
        with pytest.raises(InputError, match=message):
            read_sources(str(tmp_path / "s.json"))


def test_the_suite_is_listed_with_digests_that_follow_its_files(resolve: Resolve) -> None:
    write("a.csv", "dev.jsonl", "beir/corpus.jsonl", "beir/qrels/test.tsv")
    suite = [
        {"name": "dev", "type": "sts", "uri": "dev.jsonl"},
        {"name": "own", "type": "heldout"},
        {"name": "ask", "type": "beir", "uri": "beir"},
    ]
    resolve(files("a.csv"), suite=suite)
    before = json.loads(storage.read_bytes(SUITE))
    assert {name: sorted(listed) for name, listed in before.items()} == {
        "ask": ["beir/corpus.jsonl", "beir/qrels/test.tsv"],
        "dev": ["dev.jsonl"],
    }
    storage.write_bytes("dev.jsonl", b"other rows")
    resolve(files("a.csv"), suite=suite)
    after = json.loads(storage.read_bytes(SUITE))
    assert after["ask"] == before["ask"]
    assert after["dev"] != before["dev"]
    with pytest.raises(InputError, match=r"evaluate\.suite\[0\]: none\.jsonl: no such file"):
        resolve(files("a.csv"), suite=[{"name": "dev", "type": "sts", "uri": "none.jsonl"}])
