"""The learned tokenizer: what it cuts, and that it is the same in every process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.errors import UsageError
from components.training.vocabulary import learn_tokenizer, load_tokenizer

PROJECT = Path(__file__).resolve().parents[2]
LEARN = """
import hashlib
from components.training.vocabulary import learn_tokenizer
words = [f"word{i % 37} readCsvFile_{i % 11} {'ab' * (i % 5)}" for i in range(600)]
texts = [f"{word} 北京大学{chr(0x4e00 + i % 300)}图书馆" for i, word in enumerate(words)]
print(hashlib.sha256(learn_tokenizer(texts, 700, 1).to_str().encode()).hexdigest())
"""


def test_names_are_cut_into_words_and_punctuation_is_left_out() -> None:
    tokenizer = learn_tokenizer(["read csv file http response parse"] * 3, 200, 1)
    assert tokenizer.encode("readCsv_file, HTTPResponse.parse()").tokens == [
        "read", "csv", "file", "http", "response", "parse",
    ]  # fmt: skip


def test_chinese_is_cut_from_latin_letters_and_digits() -> None:
    tokenizer = learn_tokenizer(["北京", "北京", "2024", "2024", "kafka", "kafka"], 200, 1)
    assert tokenizer.encode("北京kafka2024").tokens == ["北京", "kafka", "2024"]


def test_unknown_characters_give_no_token() -> None:
    assert learn_tokenizer(["abc"], 50, 1).encode("é").ids == []


def test_same_vocabulary_in_every_process() -> None:
    digests = set()
    for seed, threads in (("0", "1"), ("1", "2")):
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        result = subprocess.run(
            [sys.executable, "-c", LEARN], env=environment, capture_output=True, text=True, check=True
        )
        digests.add(result.stdout)
    assert len(digests) == 1
    assert len(digests.pop().strip()) == len(hashlib.sha256().hexdigest())


def test_tokenizer_from_file_or_folder(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(["one two"], 50, 1)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).to_str() == tokenizer.to_str()
    assert load_tokenizer(str(tmp_path / "tokenizer.json")).to_str() == tokenizer.to_str()


def test_missing_or_broken_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pretrain.tokenizer: .*absent.*train"):
        load_tokenizer(str(tmp_path / "absent"))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer.json: not a tokenizers file"):
        load_tokenizer(str(tmp_path))
