"""Words remembered by a tokenizer: the same tokens as without, whatever the text, or no memory at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from components.training import words
from components.training.vocabulary import learn_tokenizer
from components.training.words import Words, encode_texts, stand_alone

TEXTS = [
    "Read the whole table, then write it",
    "",
    " ",
    "  two  spaces\tand a tab\nand lines \r\n",
    "readTheWholeTable HTTPServer",
    "[SEP] the[SEP]table [UNK]",
    "中文句子没有空格，但是有标点。the table 表",
    "葛\ufe00城 中\u0301文  か\u3099中 々〇 \U00020000x豈 一龥鿿㐀readＡ中B",
    "é e\u0301 \u0301alone ﬁ Ⅸ ½ ΟΔΟΣ İstanbul ß",
    "zero\u200bwidth nbsp\u00a0here ideographic\u3000space \u2028line \x1c\x1f\x85 \u180e",
    "\ue000\uf8ff private \ue000 \uf8ff\ue000\uf8ff",
    "a" * 150 + " " + "1234567890" * 20,
    "👩‍👩‍👧 🇩🇪 क्षि ｆｕｌｌ　ｗｉｄｔｈ",
]


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[UNK]", "[SEP]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(special_tokens=special, vocab_size=300))
    return tokenizer


@pytest.fixture(params=["learned", "wordpiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return learn_tokenizer(TEXTS, 300, 1) if request.param == "learned" else wordpiece()


@pytest.mark.parametrize("limit", [None, 3])
def test_tokens_are_those_of_the_tokenizer(tokenizer: Tokenizer, limit: int | None) -> None:
    if limit is not None:
        tokenizer.enable_truncation(limit)
    memory = Words(tokenizer)
    assert memory.remembers
    for texts in (TEXTS, TEXTS[::-1], [" ".join(TEXTS)], [one + two for one in TEXTS for two in TEXTS], []):
        tokens, lengths = memory.tokenise(texts)
        expected_tokens, expected_lengths = encode_texts(tokenizer, texts, special=False)
        assert lengths.tolist() == expected_lengths.tolist()
        assert tokens.tolist() == expected_tokens.tolist()
        assert (tokens.dtype, lengths.dtype) == (np.int32, np.int64)


def test_frequent_words_are_asked_for_once(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Words(tokenizer)
    first = memory.tokenise(["the table and the table"])
    monkeypatch.setattr(words, "encode_texts", None)
    again = memory.tokenise(["the table and the table"])
    assert [part.tolist() for part in first] == [part.tolist() for part in again]


def test_memory_is_bounded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_KEPT", 20)
    memory = Words(tokenizer)
    for number in range(30):
        texts = [f"the table {number} {other}" for other in range(7)]
        tokens, _ = memory.tokenise(texts)
        assert tokens.tolist() == encode_texts(tokenizer, texts, special=False)[0].tolist()
    assert memory.remembered <= 20 + 10


def test_tokenizers_that_look_across_spaces_are_asked_for_whole_texts() -> None:
    metaspace = Tokenizer(models.BPE())
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace()
    replacing, cutting = wordpiece(), wordpiece()
    replacing.normalizer = normalizers.Replace(Regex("a b"), "c")
    cutting.pre_tokenizer = pre_tokenizers.Split(Regex("e t"), "isolated")
    spaced, stripping = wordpiece(), wordpiece()
    spaced.add_tokens(["whole table"])
    stripping.add_tokens([AddedToken("table", lstrip=True)])
    for tokenizer in (metaspace, replacing, cutting, spaced, stripping, Tokenizer(models.BPE())):
        assert not Words(tokenizer).remembers
    tokens, _ = Words(spaced).tokenise(["the whole table"])
    assert spaced.token_to_id("whole table") in tokens


def test_cutting_at_the_left_is_left_to_the_tokenizer(tokenizer: Tokenizer) -> None:
    tokenizer.enable_truncation(2, direction="left")
    tokens, _ = Words(tokenizer).tokenise(["read the whole table"])
    assert tokens.tolist() == encode_texts(tokenizer, ["read the whole table"], special=False)[0].tolist()


def test_settings_of_a_saved_tokenizer_say_the_same(tmp_path: Path) -> None:
    import json

    learn_tokenizer(TEXTS, 300, 1).save(str(tmp_path / "tokenizer.json"))
    assert stand_alone(json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8")))
