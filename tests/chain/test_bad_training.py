"""What a person can get wrong about training: one clear line and the right exit code, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components import cli
from tests.fixtures.small_corpus import SMALL, Rows, records, run_step, write_dataset

USAGE, INPUT = 2, 3
BERT = {"type": "transformer", "layers": 1, "hidden": 16, "heads": 2, "intermediate": 16, "max_positions": 32}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with records; the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_dataset("data/score", records())
    return tmp_path


@pytest.fixture
def pretrained() -> None:
    """A static model of 32 dimensions."""
    run_step("pretrain", {"pretrain": {**SMALL, "objective": "none"}})


def complaint(capsys: pytest.CaptureFixture[str], step: str, code: int, **section: Any) -> str:
    """What `embedmill STEP` says before it ends with this exit code; nothing may have been trained."""
    Path("params.yaml").write_text(yaml.safe_dump({"run": {"threads": 1}, step: section}))
    capsys.readouterr()
    assert cli._run([step], debug=False) == code
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("embedmill: ")]
    assert len(said) == 1 and lines[-1] == said[0], lines
    assert not any("steps in" in line for line in lines)
    assert not Path(f"reports/{step}/loss.csv").exists() or step == "pretrain"
    return said[0].removeprefix("embedmill: ")


def pretrain_complaint(capsys: pytest.CaptureFixture[str], code: int, **params: Any) -> str:
    merged = {"matryoshka": {"dims": [16]}, "vocab_size": 400, "min_frequency": 1, "teachers": {}, "max_tokens": 32}
    return complaint(capsys, "pretrain", code, **(merged | params))


def test_dimensions_beyond_the_models(capsys: pytest.CaptureFixture[str], pretrained: None) -> None:
    said = complaint(capsys, "finetune", USAGE, matryoshka={"dims": [64, 32]})
    assert said == "finetune.matryoshka.dims: 64 dimensions, but the model has 32; allowed: up to 32"
    said = pretrain_complaint(capsys, USAGE, model=BERT, matryoshka={"dims": [32]})
    assert said == "params.yaml: pretrain: matryoshka.dims: 32 is more than the model's 16 dimensions"


@pytest.mark.parametrize(
    ("processes", "section", "message"),
    [
        (3, {}, "finetune.retrieval.batch_size: 1024 does not divide among 3 processes; allowed: multiples of 3"),
        (
            2,
            {"schedule": {"sampling": "balanced"}},
            "finetune.schedule.roles: 5 does not divide among 2 processes; allowed: multiples of 2",
        ),
    ],
)
def test_batches_and_roles_that_do_not_divide(
    capsys: pytest.CaptureFixture[str],
    pretrained: None,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    section: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    monkeypatch.setattr("components.core.lock.die_with_parent", lambda: None)
    assert complaint(capsys, "finetune", USAGE, **section) == message


def test_numbers_that_are_none_and_keys_that_are_none(capsys: pytest.CaptureFixture[str], pretrained: None) -> None:
    said = complaint(capsys, "finetune", USAGE, lr=float("inf"))
    assert said == "params.yaml: finetune.lr: should be a finite number, found inf"
    said = complaint(capsys, "finetune", USAGE, schedule={"sampling": "weighted", "weights": {"retreival": 1}})
    assert said.startswith("params.yaml: finetune.schedule.weights.retreival: should be 'retrieval', ")
    said = complaint(capsys, "finetune", USAGE, max_tokens={"query": 32})
    assert said == "params.yaml: finetune.max_tokens.passage: field required"


def test_a_dev_set_that_is_not_there_before_anything_is_mined(
    capsys: pytest.CaptureFixture[str], pretrained: None
) -> None:
    Path("params.yaml").write_text(
        yaml.safe_dump(
            {
                "finetune": {
                    "dev": {"every": 5, "rows": 20, "suite": [{"name": "x", "type": "sts", "uri": "absent.csv"}]}
                }
            }
        )
    )
    capsys.readouterr()
    assert cli._run(["finetune"], debug=False) == INPUT
    assert capsys.readouterr().err == "embedmill: absent.csv: no such file\n"


def test_model_folders_that_lack_a_part(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    empty = {"objective": "none", "model": BERT, "matryoshka": {"dims": None}, "vocab_size": 300, "min_frequency": 1}
    run_step("pretrain", {"pretrain": {**empty, "max_tokens": 32}})
    folder = project / "models/pretrain"
    (folder / "config_sentence_transformers.json").write_text("{")
    assert complaint(capsys, "finetune", INPUT).startswith(
        "models/pretrain/config_sentence_transformers.json: not JSON"
    )
    (folder / "config_sentence_transformers.json").write_text("{}")
    (folder / "tokenizer.json").unlink()
    said = complaint(capsys, "finetune", INPUT)
    assert said == "models/pretrain: no tokenizer.json, and no vocabulary to make one of"
    (folder / "config.json").write_text("[]")
    assert complaint(capsys, "finetune", INPUT) == "models/pretrain/config.json: expected an object, found list"


def only(tasks: Sequence[str]) -> Rows:
    return [row for row in records() if row["task"] in tasks]


def test_a_role_for_an_empty_task(capsys: pytest.CaptureFixture[str], pretrained: None) -> None:
    write_dataset("data/score", only(["retri_contrast"]))
    said = complaint(capsys, "finetune", USAGE, schedule={"sampling": "balanced"})
    assert said.startswith("finetune.schedule.roles.similarity: 1 roles for an empty task (no cosent records)")
    said = complaint(capsys, "finetune", USAGE, schedule={"sampling": "weighted", "weights": {"classes": 1}})
    assert said == "finetune.schedule.weights: no weight for retrieval; give 0 to leave a task out"


def test_fewer_passages_than_negatives(capsys: pytest.CaptureFixture[str], pretrained: None) -> None:
    write_dataset("data/score", only(["retri_contrast"])[:5])
    said = complaint(capsys, "finetune", USAGE, mining={"negatives": 8})
    assert said.startswith("finetune.mining.negatives: 8 for a query, the records have 5 distinct passages; allowed: ")


def test_labels_out_of_range(capsys: pytest.CaptureFixture[str], pretrained: None) -> None:
    rows = only(["cosent"])
    write_dataset("data/score", [*rows[:-1], {**rows[-1], "label": 1e9}])
    said = complaint(capsys, "finetune", INPUT)
    assert said.startswith("data/score: source graded, cosent record ")
    assert "label is out of range, expected a number within ±1e+06" in said


def test_a_tokenizer_that_is_not_the_models(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    run_step(
        "pretrain",
        {
            "pretrain": {
                "objective": "none",
                "model": BERT,
                "matryoshka": {"dims": None},
                "vocab_size": 300,
                "min_frequency": 1,
                "max_tokens": 32,
            }
        },
    )
    file = project / "models/pretrain/tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": 5000, "content": "[EXTRA]"})
    file.write_text(json.dumps(tokenizer))
    said = complaint(capsys, "finetune", INPUT)
    assert said.startswith("models/pretrain: tokenizer and model do not fit: token '[EXTRA]' has number ")
    said = pretrain_complaint(capsys, USAGE, model={"type": "transformer", "name": "x/y"}, tokenizer="tokenizer.json")
    assert said == "pretrain.tokenizer: tokenizer.json: x/y brings its own tokenizer; leave it at train"


def test_a_hub_name_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    name = "BAAI/bge-small-zh-v1.5"
    said = pretrain_complaint(capsys, USAGE, model={"type": "transformer", "name": name})
    assert said == f"model {name!r}: no such folder, and the hub cannot be reached to look there"
    said = pretrain_complaint(capsys, USAGE, model={"type": "transformer", "name": "no such folder"})
    assert said.startswith("model 'no such folder': no such folder; allowed: a model's folder, or a hub name")


def test_more_tokens_than_positions(capsys: pytest.CaptureFixture[str]) -> None:
    said = pretrain_complaint(capsys, USAGE, model=BERT, max_tokens=64)
    assert said.startswith("pretrain.max_tokens: 64 tokens, but the model has 32 positions; allowed: up to 32, or more")


def test_what_a_static_model_has_no_use_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert "1 for a static model, which is one table without parts; allowed: null" in pretrain_complaint(
        capsys, USAGE, zero=1
    )
    assert "fp16 is for transformers" in pretrain_complaint(capsys, USAGE, precision="fp16")


def test_start_vectors_and_token_weights_that_do_not_fit(capsys: pytest.CaptureFixture[str], project: Path) -> None:
    run_step("pretrain", {"pretrain": {**SMALL, "objective": "none"}})
    given = {"tokenizer": "models/pretrain"}
    np.save(project / "few.npy", np.zeros((3, 16), np.float32))
    said = pretrain_complaint(capsys, USAGE, model={"vectors": "few.npy"}, **given)
    assert said.startswith("pretrain.model.vectors: few.npy has the shape [3, 16]; expected ")
    said = pretrain_complaint(capsys, INPUT, model={"vectors": "absent.npy"}, **given)
    assert said.startswith("absent.npy: cannot be read")
    np.save(project / "nan.npy", np.full((3, 16), np.nan, np.float32))
    assert "expected finite" in pretrain_complaint(capsys, INPUT, model={"vectors": "nan.npy"}, **given)
    (project / "weights.json").write_text('["a"]')
    said = pretrain_complaint(capsys, USAGE, model={"token_weights": "weights.json"}, **given)
    assert said.endswith("weights.json: expected an object of token: number")
