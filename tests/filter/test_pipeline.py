from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.core import storage
from components.core.errors import InputError
from components.core.manifest import Dataset
from components.filter import shuffle_plan
from tests.fixtures.seaweed import S3Bucket

Filter = Callable[..., Dataset]
PROJECT = Path(__file__).resolve().parents[2]
VERBS = ["Read", "Write", "Open", "Close", "Parse", "Return", "Compute", "Encode", "Decode", "Merge", "Split", "Sort"]
NOUNS = ["file", "table", "row", "column", "index", "header", "archive", "socket", "matrix", "vector", "tree", "token"]
TAILS = ["in place", "without a copy", "by name", "from the end", "once", "for each caller", "if it is open", "lazily"]


def passage(choose: random.Random) -> str:
    parts = [f"{choose.choice(VERBS)} the {choose.choice(NOUNS)} {choose.choice(TAILS)}" for _ in range(12)]
    return f"def f{choose.randrange(10**6)}():\n" + ".\n".join(parts) + "."


def corpus(objects: int, seed: int = 1) -> list[dict[str, Any]]:
    """Objects in two forms, some of them again exactly or nearly, some unfit, and Chinese pairs, in shuffled order."""
    choose = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for index in range(objects):
        text, summary = (
            passage(choose),
            f"{choose.choice(VERBS)} {choose.choice(NOUNS)} number {choose.randrange(10**6)}.",
        )
        copies = [text] * choose.choice([1, 1, 1, 2]) + [text + " See also."] * choose.choice([0, 0, 1])
        for copy, body in enumerate(copies):
            for form, query in (("named", f"module object {index}. {summary}"), ("summary", summary)):
                meta = {"object": f"o{index}", "form": form}
                row = {"task": "retri_contrast", "text": query, "text_pos": body, "source": f"doc.{form}", "meta": meta}
                rows.append({**row, "url": f"{index}/{copy}"})
        rows.append(
            {"task": "cosent", "text": f"怎么还款{index}", "text_pair": f"如何还{index}", "label": 1.0, "source": "zh"}
        )
        if index % 10 == 0:
            rows.append({"task": "retri_contrast", "text": "x", "text_pos": text, "source": "bad"})
            rows.append(
                {
                    "task": "cosent",
                    "text": "Ein Satz auf Deutsch, der lang ist.",
                    "text_pair": "Und noch ein zweiter davon.",
                    "label": 0.0,
                    "source": "bad",
                }
            )
    choose.shuffle(rows)
    return rows


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_row_is_accounted_for(filtered: Filter, tmp_path: Path) -> None:
    rows = corpus(120)
    heldout = [row for row in rows if row.get("meta", {}).get("object") in ("o3", "o4")]
    heldout = [row for row in heldout if row["source"] == "doc.summary"]
    result = filtered(rows, heldout, per_shard=100, languages=["en", "zh"])
    ledger = result.ledger
    assert ledger.rows_in == Counter(row["source"] for row in rows)
    ledger.check()

    funnel = table(tmp_path / "out.funnel.csv")
    assert [line["stage"] for line in funnel] == [
        *("ingest", "normalise", "language", "length", "heuristics", "pairs", "safety", "quality"),
        *("exact_duplicates", "near_duplicates", "semantic_duplicates", "contamination"),
    ]
    assert int(funnel[0]["rows"]) == len(rows)
    assert int(funnel[-1]["rows"]) == result.rows == len(rows) - sum(int(line["dropped"]) for line in funnel)
    dropped = {line["stage"]: int(line["dropped"]) for line in funnel}
    reasons: Counter[str] = Counter()
    for counts in ledger.dropped.values():
        reasons.update(counts)
    spelt = [pair.split() for line in funnel for pair in line["reasons"].split("; ") if pair]
    assert {reason: int(rows) for reason, rows in spelt} == reasons
    assert dropped["safety"] == dropped["quality"] == 0
    assert min(dropped[s] for s in ("language", "length", "exact_duplicates", "near_duplicates", "contamination")) > 0

    kept = result.read()
    assert len(set(kept["id"].to_pylist())) == len(kept)
    assert {"en", "zh"} == set(kept["lang"].to_pylist())
    assert result.stats == {f"lang.{code}": n for code, n in Counter(kept["lang"].to_pylist()).items()}
    objects = Counter(url for url in kept["url"].to_pylist() if url)
    per_object: dict[str, set[str]] = {}
    for url in objects:
        per_object.setdefault(url.split("/")[0], set()).add(url)
    assert len(per_object) == 118  # all but those held out
    forms = Counter(kept["source"].to_pylist())
    assert forms["doc.named"] == forms["doc.summary"] == 118  # one row of each form survives, and both do
    assert not (tmp_path / "out" / "_phases").exists()


def test_rejected_rows_say_why(filtered: Filter) -> None:
    result = filtered(corpus(30), languages=["en", "zh"])
    rejected = result.read_rejected().to_pylist()
    known = {*result.read()["id"].to_pylist(), *(row["id"] for row in rejected)}
    for row in rejected:
        assert row["kind"] == "dropped"
        assert row["record"].startswith("{")
        if row["reason"].endswith("_duplicate"):
            assert int(row["detail"].removeprefix("of ")) in known
    assert {row["detail"] for row in rejected if row["reason"] == "language"} == {"de"}


def test_the_survivors_do_not_depend_on_order_or_shards(filtered: Filter) -> None:
    rows = corpus(60)
    first = filtered(rows, per_shard=1000, out="a", languages=["en", "zh"]).read()
    second = filtered(rows[::-1], per_shard=70, out="b", languages=["en", "zh"]).read()
    columns = ("id", "url", "source", "lang")
    one, two = ({tuple(row[c] for c in columns) for row in result.to_pylist()} for result in (first, second))
    assert one == two


def test_the_bytes_do_not_depend_on_workers_or_on_the_size_of_tasks(filtered: Filter, tmp_path: Path) -> None:
    rows = corpus(250)
    small = shuffle_plan.plan(len(rows), 30, 0.85, 1 << 20)
    assert min(small.groups, small.band_partitions, small.edge_partitions) > 3
    heldout = [row for row in rows[:8] if row["task"] == "retri_contrast"]
    for workers, task_memory in ((1, 1024), (2, 1024), (1, 1), (2, 1)):
        out = f"out{workers}-{task_memory}"
        filtered(rows, heldout, per_shard=40, workers=workers, out=out, languages=["en", "zh"], task_memory=task_memory)
    written = [files(tmp_path / out) for out in ("out1-1024", "out2-1024", "out1-1", "out2-1")]
    assert all(each == written[0] for each in written)
    assert (tmp_path / "out1-1024.funnel.csv").read_bytes() == (tmp_path / "out2-1.funnel.csv").read_bytes()


def test_classes_of_rows_that_pass_nothing_are_reported(
    filtered: Filter, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    filtered(corpus(20), languages=["zh"])
    assert "warning: source doc.named: all" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"no row is left to train on; source .* of them for 'language'"):
        filtered(corpus(20), languages=["ko"], out="none")
    assert int(table(tmp_path / "none.funnel.csv")[-1]["rows"]) == 0
    rejected = Dataset.open(str(tmp_path / "none")).read_rejected()
    assert set(rejected["reason"].to_pylist()) == {"language"}  # the rows can be looked at


def test_an_input_without_rows_is_refused(filtered: Filter) -> None:
    with pytest.raises(InputError, match="no rows to filter"):
        filtered([])


def test_a_changed_parameter_is_applied_to_an_earlier_output(filtered: Filter) -> None:
    rows = corpus(20)
    assert filtered(rows, languages=["en", "zh"]).ledger.rows_out["zh"] == 20
    assert filtered(rows, languages=["en"]).ledger.rows_out["zh"] == 0
    assert filtered(rows, languages=["en", "zh"], near_duplicates={"threshold": None}).rows > 60


# The command of the step, in a process that kills itself, hard, during the nth write to a path that holds a text.
COMMAND = """
import contextlib, os, signal, sys
from components.core import storage
from components.core.command import step_command
from components.core.settings import RunParams
from components.filter.step import STEP

where, left, open_write = sys.argv[1], int(sys.argv[2]), storage.open_write

def die_at(uri):
    global left
    left -= where in uri
    if where in uri and left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

@contextlib.contextmanager
def open_write_or_die(uri):
    with open_write(uri) as file:
        yield file
        die_at(uri)

storage.open_write = open_write_or_die  # every local file is written through it
step_command(STEP, lambda: {"run": RunParams, **STEP.sections})([])
"""
PARAMS = """
run: {workers: 1}
filter: {languages: [en, zh], task_memory: 1}
evaluate: {suite: [{name: heldout, type: heldout}]}
"""
FILES = ["judge", "keys", "exact", "bands", "edges", "requests", "nodes", "verified", "near", "settled"]


def run_command(project: Path, hash_seed: int, where: str = "nowhere", nth: int = 1) -> int:
    """Run the step in `project` and return its exit status."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", COMMAND, where, str(nth)]
    return subprocess.run(command, cwd=project, env=environment, stderr=subprocess.DEVNULL, check=False).returncode


def inodes(output: Path, pattern: str) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in output.glob(pattern) if not path.name.startswith(".")}


def test_a_killed_step_goes_on_and_gives_the_same_bytes(tmp_path: Path, make_dataset: Callable[..., Dataset]) -> None:
    rows = corpus(700)
    heldout = [row for row in rows[:20] if row["task"] == "retri_contrast"]
    for name in ("killed", "undisturbed"):
        make_dataset(tmp_path / name / "data/ingest", rows, 300)
        make_dataset(tmp_path / name / "data/heldout", heldout)
        (tmp_path / name / "data/suite.json").write_text("{}")
        (tmp_path / name / "params.yaml").write_text(PARAMS)
    killed, output = tmp_path / "killed", tmp_path / "killed/data/filter"

    made: dict[Path, int] = {}
    for seed, phase in enumerate(FILES):  # each phase is killed in its second file, and near in its only one
        assert run_command(killed, seed, f"/{phase}/", 1 if phase == "near" else 2) == -signal.SIGKILL
        now = inodes(output, "_phases/**/*")
        assert made.items() <= now.items()  # nothing was made again
        assert len([path for path in now if path.parent.name == phase]) == (phase != "near")
        made = now
    assert run_command(killed, 2, "/shards/", 3) == -signal.SIGKILL
    assert len(written := inodes(output, "shards/*.parquet")) == 2
    assert run_command(killed, 3, "filter/manifest.json") == -signal.SIGKILL
    assert written.items() <= inodes(output, "shards/*.parquet").items()
    assert made.items() <= inodes(output, "_phases/**/*").items()
    assert not (output / "manifest.json").exists()

    assert run_command(killed, 4) == run_command(tmp_path / "undisturbed", 5) == 0
    first, second = (files(tmp_path / name / "data") for name in ("killed", "undisturbed"))
    assert first == second
    first, second = (files(tmp_path / name / "reports") for name in ("killed", "undisturbed"))
    assert first == second != {}
    assert not [path for path in output.iterdir() if path.name.startswith("_")]


def test_an_s3_output_holds_the_same_bytes(filtered: Filter, tmp_path: Path, s3: S3Bucket) -> None:
    rows = corpus(20)
    local = filtered(rows, per_shard=50)
    remote = filtered(rows, per_shard=50, uri=f"{s3.uri}/data/filter")
    assert remote.digest == local.digest
    names = [info.uri.removeprefix(f"{s3.uri}/data/filter/") for info in storage.list_files(s3.uri)]
    assert sorted(names) == sorted(files(tmp_path / "out"))  # and nothing that was only work
