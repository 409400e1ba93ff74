"""The token store: each text once, read back only if it is whole and made from the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from components.training.tokens import build_store, tokenise
from components.training.vocabulary import document_frequency, learn_tokenizer

TEXTS = ["read a file", "write a file", "", "read the whole table", "write a file"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn_tokenizer(TEXTS, 100, 1)


def test_bags_follow_the_asked_order(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = build_store(tmp_path / "tokens", tokenizer, TEXTS, "one")
    assert len(store) == 4
    bags = store.bags(store.rows_of(["read the whole table", "", "read a file"]))
    direct = tokenise(tokenizer, ["read the whole table", "", "read a file"])
    assert bags.tokens.tolist() == direct.tokens.tolist()
    assert bags.offsets.tolist() == direct.offsets.tolist() == [0, 4, 4, 7]


def test_finished_store_is_read_back_not_made_again(tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = build_store(tmp_path / "tokens", tokenizer, TEXTS, "one")
    kept = build_store(tmp_path / "tokens", tokenizer, ["something else"], "one")
    assert kept.text_ids.tolist() == made.text_ids.tolist()
    assert isinstance(kept.tokens, np.memmap)
    other = build_store(tmp_path / "tokens", tokenizer, ["something else"], "two")
    assert len(other) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "unmark"])
def test_damaged_store_is_made_again(tokenizer: Tokenizer, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "tokens"
    made = build_store(folder, tokenizer, TEXTS, "one")
    target = folder / ("COMPLETE" if damage == "unmark" else "tokens.npy")
    data = bytearray(target.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    target.write_bytes(data[: len(data) // 2] if damage != "flip" else data)
    again = build_store(folder, tokenizer, TEXTS, "one")
    assert again.tokens.tolist() == made.tokens.tolist()


def test_document_frequency_counts_texts_not_occurrences(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = build_store(tmp_path / "tokens", tokenizer, ["file file", "file", "table"], "one")
    frequency = document_frequency(store, tokenizer.get_vocab_size())
    assert frequency[tokenizer.token_to_id("file")] == 2
    assert frequency[tokenizer.token_to_id("table")] == 1
    assert frequency.sum() == 3
