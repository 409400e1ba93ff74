"""Rules against numbers: what holds, what is refused and why, and rules that cannot be applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.core.errors import InputError, UsageError
from components.register.candidate import Candidate, read_candidate
from components.register.gate import judge
from components.register.params import GateRule
from components.register.step import STEP
from tests.register.tiny_run import DIMS, write_measured, write_run


@pytest.fixture
def inputs(project: Path) -> dict[str, str]:
    write_run(project)
    return {port.name: port.default for port in STEP.inputs}


@pytest.fixture
def candidate(inputs: dict[str, str]) -> Candidate:
    return read_candidate(Path(inputs["model"]), inputs)


@pytest.mark.parametrize(
    ("rule", "champion", "held", "text"),
    [
        ({"at_least": 50.0}, None, True, "pydoc ndcg_at_10 50.00, at least 50.00 wanted"),
        ({"at_least": 50.1}, None, False, "pydoc ndcg_at_10 50.00, at least 50.10 wanted"),
        ({"dim": 4, "at_least": 48.5}, None, False, "pydoc ndcg_at_10 at 4 dimensions 48.00, at least 48.50 wanted"),
        ({"over": ["bm25"], "by": 6.0}, None, True, "pydoc ndcg_at_10 50.00, bm25 44.00, +6.00 wanted"),
        ({"over": ["tfidf", "bm25"], "by": 6.5}, None, False, "pydoc ndcg_at_10 50.00, bm25 44.00, +6.50 wanted"),
        ({"dim": 4, "over": ["bm25"], "by": 4.0}, None, True, "at 4 dimensions 48.00, bm25 44.00, +4.00 wanted"),
        ({"over": ["champion"]}, None, True, "pydoc ndcg_at_10 50.00, no champion on this suite yet"),
        ({"over": ["champion"], "by": -1.0}, 51.0, True, "pydoc ndcg_at_10 50.00, champion 51.00, -1.00 wanted"),
        ({"over": ["champion"]}, 50.5, False, "champion 50.50, at least as much wanted"),
        ({"task": "pydoc_structure", "over": ["bm25"]}, None, False, "none of bm25 was measured on this task"),
        ({"metric": "recall_at_10", "at_least": 60.0}, None, True, "pydoc recall_at_10 60.00"),
    ],
)
def test_a_rule(candidate: Candidate, rule: dict[str, Any], champion: float | None, held: bool, text: str) -> None:
    values = None if champion is None else {f"pydoc/{DIMS}/ndcg_at_10": champion}
    verdict = judge(candidate, [GateRule(**rule)], values)[0]
    assert verdict.held is held
    assert text in verdict.text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"task": "msmarco", "at_least": 1.0},
            r"register\.rules\[1\]: task 'msmarco' was not measured; the suite has pydoc",
        ),
        (
            {"dim": 100, "at_least": 1.0},
            r"register\.rules\[1\]: no value pydoc/100/ndcg_at_10; measured: pydoc/4/ndcg_at_10",
        ),
    ],
)
def test_a_rule_on_what_was_not_measured(candidate: Candidate, rule: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        judge(candidate, [GateRule(at_least=1.0), GateRule(**rule)], None)


@pytest.mark.parametrize("rule", [{}, {"at_least": 1.0, "over": ["bm25"]}, {"over": ["champion", "bm25"]}])
def test_a_rule_that_compares_with_nothing_or_too_much(rule: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GateRule(**rule)


def test_identity_follows_model_measures_and_data(inputs: dict[str, str], tmp_path: Path) -> None:
    first = read_candidate(Path(inputs["model"]), inputs)
    write_run(tmp_path)
    assert read_candidate(Path(inputs["model"]), inputs).identity == first.identity
    write_measured(tmp_path / "reports/evaluate", bm25=45.0)
    assert read_candidate(Path(inputs["model"]), inputs).identity != first.identity
    write_run(tmp_path, seed=1)
    second = read_candidate(Path(inputs["model"]), inputs)
    assert second.data_version == first.data_version
    assert second.weights != first.weights
    assert second.identity != first.identity


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("reports/evaluate/metrics.json", "{", "metrics.json: not valid JSON"),
        ("reports/evaluate/metrics.json", '{"suite_digest": "x"}', "metrics.json: no usable 'score'"),
        ("reports/evaluate/quality.csv", "system,task\na,b\n", "quality.csv: no column 'dim'"),
        ("reports/evaluate/quality.csv", "system,task,dim,metric,value\n", "quality.csv: no value measured"),
        ("models/export/modules.json", None, "models/export: not a sentence-transformers folder"),
        ("data/score/manifest.json", None, "data/score: no manifest.json"),
    ],
)
def test_unusable_inputs_are_named(inputs: dict[str, str], file: str, content: str | None, message: str) -> None:
    if content is None:
        Path(file).unlink()
    else:
        Path(file).write_text(content)
    with pytest.raises(InputError, match=message):
        read_candidate(Path(inputs["model"]), inputs)
