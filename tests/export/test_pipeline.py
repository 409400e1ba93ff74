"""The export step: a folder that others load, and a card that says what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from sentence_transformers import SentenceTransformer

from components.core.errors import UsageError
from components.training.model import StaticModel, load_model, save_model
from components.training.vocabulary import learn_tokenizer
from tests.fixtures.small_corpus import records, run_step, write_dataset

SUITE = [
    {"name": "pairs", "type": "heldout", "source": "pairs"},
    {"name": "graded", "type": "heldout", "source": "graded"},
]
TRAINING = {"data": "0123456789abcdef", "records": {"pairs": 1200, "graded": 30}, "languages": {"en": 1230}}


@pytest.fixture(autouse=True)
def finetuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project folder with held-out records and a random model; the working directory."""
    monkeypatch.chdir(tmp_path)
    write_dataset("data/heldout", records())
    tokenizer = learn_tokenizer([row["text"] for row in records()], 300, 1)
    torch.manual_seed(0)
    model = StaticModel(tokenizer, torch.randn(tokenizer.get_vocab_size(), 32))
    save_model(model, "models/finetune", {"matryoshka_dims": [32, 8], "training": TRAINING})


def export(suite: list[dict[str, Any]] = SUITE, **params: Any) -> None:
    run_step("export", {"export": params, "evaluate": {"suite": suite}})


def test_folder_loads_at_any_dimension() -> None:
    export()
    texts = ["read a file", "draw a table"]
    ours = load_model("models/export")[0].encode(texts)
    for dim in (32, 8):
        theirs = SentenceTransformer("models/export", truncate_dim=dim).encode(texts)
        np.testing.assert_allclose(ours[:, :dim], theirs, atol=1e-6)
    config = json.loads(Path("models/export/config_sentence_transformers.json").read_text())
    assert config["matryoshka_dims"] == [32, 8]


def test_card_shows_the_measured_scores_and_the_sources() -> None:
    export(name="little", license="apache-2.0")
    card = Path("models/export/README.md").read_text()
    metrics = json.loads(Path("reports/export/metrics.json").read_text())
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["language"] == ["en"]
    assert "# little" in card
    assert "truncate_dim=32" in card
    assert "| pairs | 1,200 |" in card
    for dim in ("32", "8"):
        retrieval = metrics["pairs"]["ndcg_at_10"][dim]
        similarity = metrics["graded"]["spearman"][dim]
        assert f"| {dim} | {int(dim) * 4} | {retrieval:.1f} | {similarity:.1f} |" in card


def test_repeated_export_is_the_same_byte_for_byte() -> None:
    export()
    first = {path: path.read_bytes() for path in Path("models/export").rglob("*") if path.is_file()}
    export()
    assert {path: path.read_bytes() for path in Path("models/export").rglob("*") if path.is_file()} == first


def test_suite_without_its_source_is_refused_before_anything_is_written() -> None:
    with pytest.raises(UsageError, match="absent"):
        export([{"name": "absent", "type": "heldout", "source": "absent"}])
    assert not Path("models/export").exists()
