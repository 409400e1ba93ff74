"""What a tiny run of the chain leaves for `register` and `search`: a real static model, real datasets, real values."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core import tracking
from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.fingerprint import digest_json
from components.core.records import record_table, rejected_table
from components.core.settings import RunParams
from components.core.step import Context
from components.register.params import RegisterParams
from components.register.step import STEP

DIMS = 8
PARAMETERS = {"run": {"seed": 7}, "pretrain": {"epochs": 2, "dims": [8, 4]}, "register": {}}
WORDS = (
    "[UNK]",
    "read",
    "a",
    "csv",
    "file",
    "into",
    "table",
    "open",
    "socket",
    "close",
    "sort",
    "list",
    "parse",
    "json",
)
PASSAGES = {
    "csv.reader": "reader(file)\n\nRead a csv file.",
    "socket.socket": "socket()\n\nOpen a socket.",
    "json.loads": "loads(text)\n\nParse json.",
    "list.sort": "sort()\n\nSort a list.",
}


def write_model(folder: Path, seed: int = 0) -> None:
    """A sentence-transformers folder of a static embedding over WORDS, whose words point in different directions."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace

    part = folder / "0_StaticEmbedding"
    part.mkdir(parents=True, exist_ok=True)
    table = np.random.default_rng(seed).normal(size=(len(WORDS), DIMS)).astype(np.float32)
    table[0] = 0
    save_file({"embedding.weight": table}, part / "model.safetensors")
    tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    tokenizer.save(str(part / "tokenizer.json"))
    modules = [
        {
            "idx": 0,
            "name": "0",
            "path": "0_StaticEmbedding",
            "type": "sentence_transformers.models.StaticEmbedding",
        },
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (folder / "1_Normalize").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"similarity_fn_name": "cosine"}))
    (folder / "README.md").write_text(f"Model card {seed}\n")


def write_dataset(uri: Path, rows: list[dict[str, Any]]) -> None:
    """A dataset of one shard that keeps all of `rows` and has dropped one more."""
    dropped = rejected_table([{"kind": "dropped", "reason": "too_short", "source": "pydoc.named"}])
    rows_in = Counter(["pydoc.named", *(row["source"] for row in rows)])
    output = ShardOutput(record_table(rows), dropped, rows_in)
    task = ShardTask("00000", digest_json(rows), None)
    build_dataset(str(uri), uri.name, [task], lambda _: [output], "fingerprint", 1, None)


def passage_rows() -> list[dict[str, Any]]:
    """Retrieval records over PASSAGES, one of them twice."""
    rows = [
        {
            "task": "retri_contrast",
            "text": name.replace(".", " "),
            "text_pos": text,
            "source": "pydoc.named",
            "lang": "en",
            "meta": {"object": name},
        }
        for name, text in PASSAGES.items()
    ]
    return [*rows, {**rows[0], "text": "another way to ask"}]


def write_measured(folder: Path, score: float = 50.0, bm25: float = 44.0, suite: str = "suite-1") -> None:
    """What `evaluate` writes: the score, and every value of two systems at two dimensions."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {"pydoc": "ndcg_at_10", "pydoc_structure": "spearman"}
    metrics = {"score": score, "suite_digest": suite, "tasks": tasks, "systems": {}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = [
        ("model", "pydoc", DIMS, "ndcg_at_10", score),
        ("model", "pydoc", 4, "ndcg_at_10", score - 2),
        ("model", "pydoc", DIMS, "recall_at_10", score + 10),
        ("bm25", "pydoc", "", "ndcg_at_10", bm25),
        ("model", "pydoc_structure", DIMS, "spearman", 70.0),
    ]
    with (folder / "quality.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("system", "task", "dim", "metric", "value", "bytes_per_vector"))
        writer.writerows((*row, "") for row in rows)


def write_datasets(root: Path) -> None:
    """The datasets that `register` and `search` read."""
    rows = passage_rows()
    for name in ("ingest", "filter", "score"):
        write_dataset(root / "data" / name, rows)
    write_dataset(root / "data" / "heldout", rows[:1])


def write_run(root: Path, seed: int = 0, **measured: Any) -> None:
    """Everything that `register` reads, below `root`; datasets that are there already stay."""
    if not (root / "data").exists():
        write_datasets(root)
    write_model(root / "models" / "export", seed)
    write_measured(root / "reports" / "evaluate", **measured)
    for step in ("pretrain", "finetune"):
        (root / "reports" / step).mkdir(parents=True, exist_ok=True)
        (root / "reports" / step / "metrics.json").write_text(json.dumps({"steps": 2, "pairs": {"kept": 5}}))
        losses = "step,task,loss,lr\n1,retri_contrast,4.5,0.1\n2,retri_contrast,3.5,0.05\n"
        (root / "reports" / step / "loss.csv").write_text(losses)
    (root / "reports" / "export").mkdir(parents=True, exist_ok=True)
    (root / "reports" / "export" / "metrics.json").write_text(json.dumps({"parameters": len(WORDS) * DIMS}))


def _do_not_wait_for_the_disk(connection: Any, _: object) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture(scope="session")
def template_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database and the datasets: making them takes seconds, copying them does not."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    event.listen(Engine, "connect", _do_not_wait_for_the_disk)
    folder = tmp_path_factory.mktemp("template")
    write_datasets(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        tracking.connect()
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def project(tmp_path: Path, template_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, made the working folder, with datasets and an empty MLflow database."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(template_project / "mlflow.db", tmp_path)
    shutil.copytree(template_project / "data", tmp_path / "data")
    return tmp_path


def register(strict: bool = False, **rules: Any) -> dict[str, Any]:
    """Run the step in the working folder; returns what it wrote."""
    section = RegisterParams(strict=strict, **rules)
    inputs = {port.name: port.default for port in STEP.inputs}
    outputs = {port.name: port.default for port in STEP.outputs}
    STEP.execute(Context("register", RunParams(), {"register": section}, inputs, outputs, PARAMETERS))
    version: dict[str, Any] = json.loads(Path(outputs["version"]).read_text())
    return version
