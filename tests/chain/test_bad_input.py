"""What a person can get wrong, through the real command line: one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PROJECT, Embedmill

GOOD = b"".join(json.dumps({"query": f"question {n}", "pos": f"answer {n}"}).encode() + b"\n" for n in range(300))
USAGE, INPUT = 2, 3


def params(folder: Path, uri: str = "a.jsonl", rest: str = "") -> None:
    suite = "evaluate: {suite: [{name: own, type: heldout}]}"
    text = f"ingest: {{sources: [{{uri: {uri}, task: retri_contrast, holdout: 0.1}}]}}\n{suite}\n{rest}\n"
    (folder / "params.yaml").write_text(text)


def complaint(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one line that a failed command printed; progress lines of the step itself may stand before it."""
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    said = [line for line in lines if line.startswith("embedmill: ")]
    assert len(said) == 1, done.stderr
    assert lines[-1] == said[0]
    assert "Traceback" not in done.stderr
    return said[0].removeprefix("embedmill: ")


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("filter: {min_character: 3}", "params.yaml: filter.min_character: unknown key; did you mean min_characters?"),
        ("filter: {max_url_share: lots}", "params.yaml: filter.max_url_share: should be a valid number"),
        ("fliter: {}", "params.yaml: fliter: unknown section; did you mean filter?"),
        ("run: {threads: 0}", "params.yaml: run.threads: should be greater than or equal to 1, found 0"),
    ],
)
def test_wrong_parameters(embedmill: Embedmill, tmp_path: Path, rest: str, message: str) -> None:
    params(tmp_path, rest=rest)
    assert complaint(embedmill("filter"), USAGE).startswith(message)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", None, "ingest.sources[0]: a.jsonl: no such file"),
        ("a.jsonl", b"", "source 'a' is empty"),
        ("a.jsonl", b'{"query": "x"}\n' * 3, "most often missing_column (3 of 3), first in row 0 of a.jsonl: "),
        ("a.jsonl", b"[1]\n[2]\n", "a.jsonl: a JSON list, expected an object"),
        ("a.jsonl.gz", gzip.compress(GOOD, mtime=0)[:20], "a.jsonl.gz: the .gz data ends too early"),
        (
            "a.json",
            b"[\n" + GOOD.rstrip().replace(b"\n", b",\n") + b"]",
            "a.json: the file is one JSON array, expected one",
        ),
        ("a.parquet", b"PAR1 this is none", "a.parquet: "),
        ("a.csv", b"query,reply\nx,y\n", "a.csv: "),
    ],
)
def test_unusable_sources(embedmill: Embedmill, tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    params(tmp_path, name)
    if data is not None:
        (tmp_path / name).write_bytes(data)
    listed = embedmill("sources")
    said = complaint(listed if listed.returncode else embedmill("ingest"), INPUT)
    assert message in said
    assert not (tmp_path / "data/ingest/manifest.json").exists()


def test_rows_that_cannot_be_read_are_set_aside_and_the_rest_goes_on(embedmill: Embedmill, tmp_path: Path) -> None:
    params(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(GOOD + b'{"query": "\xff\xfe", "pos": "x"}\nnot json\n["list"]\n')
    assert embedmill("sources").returncode == 0
    assert embedmill("ingest").returncode == 0
    ledger = json.loads((tmp_path / "data/ingest/manifest.json").read_text())["ledger"]
    assert ledger["quarantined"] == {"a": {"invalid_utf8": 1, "not_json": 1, "not_object": 1}}


@pytest.fixture
def ingested(embedmill: Embedmill, tmp_path: Path) -> Path:
    params(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    for step in ("sources", "ingest"):
        done = embedmill(step)
        assert done.returncode == 0, done.stderr
    return tmp_path


def test_a_dataset_without_manifest_or_with_an_altered_shard_is_refused(embedmill: Embedmill, ingested: Path) -> None:
    shard = next((ingested / "data/ingest/shards").iterdir())
    original = shard.read_bytes()
    shard.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert f"{shard.name}: altered since its manifest was written" in complaint(embedmill("filter"), INPUT)
    shard.write_bytes(original)
    assert embedmill("filter").returncode == 0
    (ingested / "data/ingest/manifest.json").unlink()
    assert "data/ingest: no manifest.json" in complaint(embedmill("filter"), INPUT)


def test_a_file_where_a_folder_should_be_is_said_before_any_work(embedmill: Embedmill, ingested: Path) -> None:
    (ingested / "blocked").write_text("a file")
    said = complaint(embedmill("filter", "--output", "blocked/filter"), INPUT)
    assert said.startswith("blocked/filter: cannot be written")


@pytest.fixture
def small_disk(ingested: Path) -> Iterator[Path]:
    """A file system of 2 MiB, below the working folder."""
    folder = ingested / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        if os.environ.get("CI"):
            pytest.fail("mounting a tmpfs needs root")
        pytest.skip("mounting a tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_ends_the_step_and_a_rerun_goes_on(embedmill: Embedmill, ingested: Path, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * ((2 << 20) - (8 << 10)))
    output = ("--output", "disk/filter", "--set", "run.workers=1")
    assert "No space left on device" in complaint(embedmill("filter", *output), INPUT)
    assert not (small_disk / "filter/manifest.json").exists()
    ballast.unlink()
    done = embedmill("filter", *output)
    assert done.returncode == 0, done.stderr
    assert json.loads((small_disk / "filter/manifest.json").read_text())["rows"] > 200


@pytest.mark.parametrize(
    "command", [["serve", "--poll"], ["submit", "full.yaml", "--interval"], ["flywheel", "watch", "--interval"]]
)
@pytest.mark.parametrize("seconds", ["nan", "inf", "0", "1e9", "soon"])
def test_a_time_to_wait_is_a_number_of_seconds_up_to_a_day(
    embedmill: Embedmill, command: list[str], seconds: str
) -> None:
    assert f"Invalid value for '{command[-1]}': " in complaint(embedmill(*command, seconds), USAGE)


def test_output_that_nobody_reads_or_that_finds_no_room_is_no_bug() -> None:
    command = [sys.executable, "-m", "components.cli", "filter", "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    gone = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    os.close(writer)
    assert gone.stderr == ""  # click ends it with 1
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    assert (done.returncode, done.stderr) == (INPUT, "embedmill: the output: No space left on device\n")
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert (closed.returncode, closed.stderr) == (0, "")


def test_help_says_it_and_unknown_commands_are_usage_errors(embedmill: Embedmill) -> None:
    assert "Usage: embedmill filter" in embedmill("filter", "--help").stdout
    assert "Missing argument 'STEP'. Choose from: sources, ingest" in complaint(embedmill("pod"), USAGE)
    assert "No such command 'fliter'" in complaint(embedmill("fliter"), USAGE)
    assert "params.yaml: no such file" in complaint(embedmill("filter"), USAGE)
