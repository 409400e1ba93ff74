"""What a sweep says: the value to go by, mean and spread over seeds, the best combination, table, recipe and page."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.core.errors import InputError
from components.sweep.page import figure, page
from components.sweep.params import SweepParams
from components.sweep.results import Outcome, Results, outcome_of
from components.sweep.trials import Trial, plan
from tests.conftest import Embedmill

GRID = {"finetune.lr": [0.01, 0.02], "finetune.keep": [0.3, 0.5]}
METRICS = {
    "score": 61.0,
    "tasks": {"pydoc": "ndcg_at_10", "sts": "spearman"},
    "systems": {"model": {"pydoc": {"256": 70.0, "1024": 72.0}, "sts": {"256": 49.0, "1024": 50.0}}, "bm25": {}},
}


def results(values: list[float | None], grid: dict[str, Any] = GRID, **section: Any) -> Results:
    """Results of a grid whose trials came to these values, in order; None failed."""
    params = SweepParams(grid=grid, **section)
    trials = plan({"sweep": {"grid": grid, **section}}, "test")
    assert len(trials) == len(values)
    outcomes = [
        Outcome(trial, failure="finetune: out of memory") if value is None else Outcome(trial, value, {"score": value})
        for trial, value in zip(trials, values, strict=True)
    ]
    return Results(params, outcomes)


@pytest.mark.parametrize(
    ("metric", "value"), [("score", 61.0), ("pydoc", 72.0), ("pydoc@256", 70.0), ("sts@1024", 50.0)]
)
def test_the_value_to_go_by(metric: str, value: float) -> None:
    outcome = outcome_of(Trial({}), SweepParams(metric=metric), METRICS, "m.json")
    assert outcome.value == value
    assert outcome.figures == {"score": 61.0, "pydoc": 72.0, "sts": 50.0}


def test_a_metric_that_was_not_measured_is_told_with_those_that_were() -> None:
    with pytest.raises(InputError, match=r"m.json: no pydoc@512; sweep.metric may be score, pydoc@256\|1024, sts@"):
        outcome_of(Trial({}), SweepParams(metric="pydoc@512"), METRICS, "m.json")
    with pytest.raises(InputError, match=r"m.json: no metrics of an evaluation"):
        outcome_of(Trial({}), SweepParams(), {"score": 1}, "m.json")


def test_the_best_has_the_best_mean_and_of_equal_ones_the_first_name() -> None:
    best = results([1.0, 4.0, 3.0, 2.0]).best()
    assert best is not None
    assert best.values == {"finetune.lr": 0.01, "finetune.keep": 0.5}
    least = results([1.0, 4.0, 3.0, 2.0], direction="min").best()
    assert least is not None
    assert least.mean == 1.0
    tied = results([4.0, 4.0, 4.0, None])
    first = tied.best()
    assert first is not None
    assert first.name == min(outcome.trial.point for outcome in tied.outcomes[:3])
    assert results([None] * 4).best() is None
    assert yaml.safe_load(results([None] * 4).recipe()) == {}


def test_seeds_give_mean_and_spread_and_a_combination_with_a_failed_one_is_out() -> None:
    found = results([1.0, 3.0, 9.0, None], {"finetune.lr": [0.01, 0.02]}, seeds=[1, 2])
    first, second = found.combinations
    assert (first.mean, first.spread, first.seeds) == (2.0, round(math.sqrt(2), 4), 2)
    assert second.mean is None
    assert found.best() == first
    assert found.summary() == "score 2.00 ± 1.41 over 2 seeds with finetune.lr 0.01"


def test_the_table_has_a_line_for_each_trial_and_the_recipe_lies_over_params() -> None:
    found = results([1.0, 4.0, None, 2.0], metric="pydoc")
    rows = list(csv.DictReader(io.StringIO(found.csv().decode())))
    assert list(rows[0]) == ["trial", "finetune.lr", "finetune.keep", "pydoc", "score", "state"]
    assert [row["pydoc"] for row in rows] == ["1.0000", "4.0000", "", "2.0000"]
    assert rows[2]["state"] == "failed: finetune: out of memory"
    assert yaml.safe_load(found.recipe()) == {"finetune": {"lr": 0.01, "keep": 0.5}}
    assert json.loads(found.json())["best"]["mean"] == 4.0
    assert found.json() == results([1.0, 4.0, None, 2.0], metric="pydoc").json()


def texts(svg: str) -> list[str]:
    root = ET.fromstring(svg)
    return ["".join(element.itertext()) for element in root.iter("text")]


def test_two_axes_are_a_heat_map_whose_best_cell_is_marked() -> None:
    svg = figure(results([61.25, 64.0, None, 62.0]))
    assert [word for word in texts(svg) if re.fullmatch(r"\d\d\.\d\d|failed", word)] == [
        "61.25",
        "64.00",
        "failed",
        "62.00",
    ]
    rectangles = [element.attrib for element in ET.fromstring(svg).iter("rect")]
    (mark,) = [each for each in rectangles if each.get("class") == "best-cell"]
    darkest = min((each for each in rectangles if "fill" in each), key=lambda each: each["fill"])
    assert float(mark["x"]) - float(darkest["x"]) == float(mark["y"]) - float(darkest["y"]) == 1.5


def test_one_axis_is_a_line_through_its_means() -> None:
    svg = figure(results([1.0, 3.0, 2.0, 2.0, 5.0, 6.0], {"finetune.lr": [0.01, 0.02, 0.04]}, seeds=[1, 2]))
    (line,) = [element.attrib["points"] for element in ET.fromstring(svg).iter("polyline")]
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert heights[0] == heights[1] > heights[2]
    assert "5.50 ± 0.71" in texts(svg)


def test_a_third_axis_shows_the_best_over_it() -> None:
    found = results([1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5], {**GRID, "finetune.epochs": [1, 2]})
    shown = [word for word in texts(figure(found)) if word.endswith(".50")]
    assert shown == ["2.50", "4.50", "6.50", "8.50"]


def test_nothing_to_draw_leaves_the_table_and_words_are_escaped() -> None:
    assert figure(results([None] * 4)) == ""
    html = page(results([1.0, 2.0], {"pretrain.tokenizer": ["<b>", "train"]}))
    assert "<b>" not in html
    assert "&lt;b&gt;" in html


def test_choose_makes_the_table_of_trials_that_ran_elsewhere(embedmill: Embedmill, tmp_path: Path) -> None:
    section = json.dumps({"grid": {"finetune.lr": [0.1, 0.2]}, "metric": "pydoc@256"})
    listed = embedmill("sweep", "plan", "--section", "sweep", section).stdout
    for name, value in (("a", 70.0), ("b", 71.5)):
        changed = json.loads(json.dumps(METRICS))
        changed["systems"]["model"]["pydoc"]["256"] = value
        (tmp_path / f"{name}.json").write_text(json.dumps(changed))
    arguments = ["sweep", "choose", "--section", "sweep", section, "--trials", listed, "--output", "out"]
    artefacts = [
        "--page",
        "page/sweep.html",
        "--figures",
        "s3://kfp/figures",
        "--executor-input",
        json.dumps({"outputs": {"outputFile": "executor.json"}}),
    ]
    done = embedmill(*arguments, "--metrics", '["a.json", "b.json"]', *artefacts)
    assert done.returncode == 0, done.stderr
    assert "Best: pydoc@256 71.50" in done.stdout
    assert yaml.safe_load((tmp_path / "out/best.yaml").read_bytes()) == {"finetune": {"lr": 0.2}}
    assert (tmp_path / "page/sweep.html").read_bytes() == (tmp_path / "out/sweep.html").read_bytes()
    (artifact,) = json.loads((tmp_path / "executor.json").read_bytes())["artifacts"]["figures"]["artifacts"]
    assert (artifact["uri"], artifact["metadata"]["best"]) == ("s3://kfp/figures", 71.5)
    short = embedmill(*arguments, "--metrics", '["a.json"]')
    assert (short.returncode, "--metrics: 1 for 2 trials" in short.stderr) == (3, True)
    gone = embedmill(*arguments, "--metrics", '["a.json", "c.json"]')
    assert (gone.returncode, "c.json: no such file" in gone.stderr) == (3, True)
