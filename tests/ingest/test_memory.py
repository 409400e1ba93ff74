"""Memory of `embedmill ingest` is bounded by a batch and a shard, not by a file."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.core.manifest import Dataset
from tests.conftest import PROJECT
from tests.ingest.conftest import json_lines

MIB = 1 << 20
# Most of it is Python, Arrow and a batch, whatever the size of the file; half a gigabyte is what may never be reached.
LIMIT = 320 * MIB
# Runs a step in a process of its own and prints the peak of its resident memory, in KiB, as Linux keeps it.
RUN = """
import sys
from pathlib import Path
from components.cli import cli
try:
    cli.main(sys.argv[1:], standalone_mode=False)
finally:
    print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


def peak_bytes(folder: Path, *arguments: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1]) * 1024


def write_lines(path: Path, block: bytes, blocks: int) -> None:
    with path.open("wb") as file:
        for _ in range(blocks):
            file.write(block)


def write_parquet(path: Path, block: bytes, blocks: int) -> None:
    """One row group of all rows, as writers with default settings leave it for tables of up to a million rows."""
    table = pa.concat_tables([pa.Table.from_pylist([json.loads(line) for line in block.splitlines()])] * blocks)
    pq.write_table(table, path, use_dictionary=False, compression="none")
    assert pq.ParquetFile(path).num_row_groups == 1


FILES: dict[str, Callable[[Path, bytes, int], None]] = {
    "a.jsonl": write_lines,
    "a.jsonl.gz": lambda path, block, blocks: write_lines(path, gzip.compress(block, 1), blocks),
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", FILES)
def test_memory_stays_far_below_the_size_of_a_file(tmp_path: Path, name: str) -> None:
    block = json_lines({"query": f"question {n}", "pos": f"{n} {'long passage ' * 300}"} for n in range(270))
    blocks = 500
    FILES[name](tmp_path / name, block, blocks)
    text_bytes = len(block) * blocks
    assert text_bytes > 500 * MIB
    (tmp_path / "params.yaml").write_text(
        f"ingest: {{sources: [{{uri: {name}, task: retri_contrast}}], shard_bytes: {4 * MIB}}}\nrun: {{workers: 1}}"
    )
    peak_bytes(tmp_path, "sources")
    peak = peak_bytes(tmp_path, "ingest")
    data = Dataset.open(str(tmp_path / "data/ingest"))
    assert data.rows == 270 * blocks
    assert len(data.shards) > 100
    assert peak < LIMIT
