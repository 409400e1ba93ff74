from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.run import command


@pytest.mark.parametrize(("gate", "model"), [("passed", "champion"), ("failed", "models/export")])
def test_a_run_whose_model_was_refused_searches_with_that_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: str, model: str
) -> None:
    asked: list[str] = []

    def search(query: str, k: int, model: str) -> list[None]:
        asked.append(model)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("components.core.scoreboard.table", lambda metrics: "scores")
    monkeypatch.setattr("components.search.search.search", search)
    version = {"name": "m", "version": "1", "gate": gate}
    examples = [{"query": "what is a passage?", "rank": 1}]
    for path, value in ((command.VERSION, version), (command.METRICS, {}), (command.EXAMPLES, examples)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    shown = "\n".join(command.summary())
    assert asked == [model]
    assert (" --model models/export " in shown) == (gate == "failed")
