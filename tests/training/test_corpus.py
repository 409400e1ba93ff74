from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.records import record_table, rejected_table
from components.training.corpus import read_corpus

ROWS: list[dict[str, Any]] = [
    {"task": "retri_contrast", "text": "q1", "text_pos": "p1", "source": "a", "meta": {"repeat": 3, "group": "x"}},
    {"task": "retri_contrast", "text": "q2", "text_pos": "p2", "source": "a"},
    {"task": "retri_contrast", "text": "q3", "text_pos": "p3", "source": "a", "meta": {"group": '"repeat":7'}},
    {"task": "cosent", "text": "q1", "text_pair": "q2", "label": 1.0, "source": "b", "meta": {"repeat": 2}},
    {"task": "cls_contrast", "text": "q1", "text_pos": "c1", "source": "c", "meta": {"repeat": 5}},
    {"task": "cls_contrast", "text": "q2", "text_pos": "c2", "source": "c"},
]


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    uri = str(tmp_path / "data")
    output = ShardOutput(record_table(ROWS), rejected_table([]), {"a": 3, "b": 1, "c": 2})
    build_dataset(uri, "test", [ShardTask("00000", "key", None)], lambda task: [output], "code", 1)
    return uri


def test_repeats_of_a_source_reach_the_rows_of_every_task(dataset: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    corpus = read_corpus(dataset)
    store = corpus.tokenised(tokenizer, tmp_path / "tokens")
    assert corpus.retrieval(store).repeat.tolist() == [3, 1, 1]
    assert corpus.similarity(store).repeat.tolist() == [2]
    assert corpus.classes(store, 1, 0).repeat.tolist() == [5, 1]
