"""The token store: each text once, read back only if it is whole and made from the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from components.core.errors import UsageError
from components.core.textnorm import text_ids
from components.training.tokens import (
    PASSAGE,
    QUERY,
    SYMMETRIC,
    Bags,
    Reading,
    SidedTokens,
    Texts,
    build_store,
    read_sides,
    tokenise,
)
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
    tokens = build_store(folder, tokenizer, TEXTS, "one").tokens.tolist()
    target = folder / ("COMPLETE" if damage == "unmark" else "tokens.npy")
    data = bytearray(target.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
    target.write_bytes(data[: len(data) // 2] if damage != "flip" else data)
    again = build_store(folder, tokenizer, TEXTS, "one")
    assert again.tokens.tolist() == tokens


def test_document_frequency_counts_texts_not_occurrences(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = build_store(tmp_path / "tokens", tokenizer, ["file file", "file", "table"], "one")
    frequency = document_frequency(store, tokenizer.get_vocab_size())
    assert frequency[tokenizer.token_to_id("file")] == 2
    assert frequency[tokenizer.token_to_id("table")] == 1
    assert frequency.sum() == 3


@pytest.fixture(scope="module")
def bert_like() -> Tokenizer:
    """Words as tokens, between [CLS] and [SEP]."""
    words = ["[CLS]", "[SEP]", "[UNK]", "find", ":", "a", "b", "c", "d", "e", "f", "g", "h"]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 0), ("[SEP]", 1)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


RAW = ["a b c d e f g h", "b", "", "c d", "h g f e d c b a"]
READINGS = {
    QUERY: Reading("find: ", 6, special=True),
    PASSAGE: Reading("", 4, special=True),
    SYMMETRIC: Reading("", 4, special=True),
}


def sided(folder: Path, tokenizer: Tokenizer, readings: dict[int, Reading], used: dict[int, list[str]]) -> SidedTokens:
    raw = sorted(RAW, key=lambda text: int(text_ids([text])[0]))
    ids = text_ids(raw)
    rows = {side: np.searchsorted(ids, text_ids(texts)) for side, texts in used.items()}
    return read_sides(folder, tokenizer, ids, lambda at: [raw[row] for row in at], readings, rows)


def test_each_side_reads_as_hugging_face_does_with_its_prompt_and_length(bert_like: Tokenizer, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokens = sided(tmp_path, bert_like, READINGS, {QUERY: RAW[:3], PASSAGE: RAW[2:], SYMMETRIC: RAW[3:4]})
    peer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(bert_like.to_str()))
    asked = [(RAW[4], PASSAGE), (RAW[0], QUERY), (RAW[3], SYMMETRIC), (RAW[2], QUERY), (RAW[2], PASSAGE)]
    texts = Texts.concatenate([Texts.of(tokens.rows_of([text]), side) for text, side in asked])
    bags = tokens.bags(texts)
    assert bags.lengths.tolist() == tokens.lengths(texts).tolist()
    for index, (text, side) in enumerate(asked):
        reading = READINGS[side]
        expected = peer(reading.prompt + text, truncation=True, max_length=reading.max_tokens)["input_ids"]
        assert bags.tokens[bags.offsets[index] : bags.offsets[index + 1]].tolist() == expected
    assert tokens.bags(texts[np.array([1])]).tokens.tolist() == [0, 3, 4, 5, 6, 1]  # [CLS] find : a b [SEP]


def test_sides_that_read_alike_share_a_store_and_a_text_is_tokenised_only_where_it_is_used(
    bert_like: Tokenizer, tmp_path: Path
) -> None:
    tokens = sided(tmp_path, bert_like, READINGS, {QUERY: RAW[:2], PASSAGE: RAW[1:3], SYMMETRIC: RAW[3:4]})
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["passage-symmetric", "query"]
    assert [len(store) for store in tokens.stores] == [2, 3]
    with pytest.raises(LookupError, match="1 texts were not tokenised for the side"):
        tokens.bags(Texts.of(tokens.rows_of([RAW[4]]), QUERY))
    with pytest.raises(LookupError, match="2 texts were not tokenised for the side"):
        SidedTokens(tokens.text_ids, {}).lengths(Texts.of(tokens.rows_of(RAW[:2]), QUERY))


def test_stores_of_sides_are_made_once_and_again_when_a_prompt_changes(bert_like: Tokenizer, tmp_path: Path) -> None:
    used = dict.fromkeys(READINGS, RAW)
    sided(tmp_path, bert_like, READINGS, used)
    stamps = {folder.name: folder.stat().st_ino for folder in tmp_path.iterdir()}
    sided(tmp_path, bert_like, {**READINGS, QUERY: Reading("find {text} a", 8, special=True)}, used)
    kept = {name for name, stamp in stamps.items() if (tmp_path / name).stat().st_ino == stamp}
    assert kept == {"passage-symmetric"}
    changed = sided(tmp_path, bert_like, {**READINGS, QUERY: Reading("find {text} a", 8, special=True)}, used)
    query = Texts.of(changed.rows_of(["b"]), QUERY)
    assert changed.bags(query).tokens.tolist() == [0, 3, 6, 5, 1]  # [CLS] find b a [SEP]


def test_one_store_serves_every_side(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = build_store(tmp_path / "tokens", tokenizer, TEXTS, "one")
    tokens = SidedTokens.same(store)
    rows = tokens.rows_of(["write a file", "", "read a file"])
    texts = Texts.concatenate([Texts.of(rows[:1], QUERY), Texts.of(rows[1:], PASSAGE)])
    assert tokens.bags(texts).tokens.tolist() == store.bags(rows).tokens.tolist()
    assert len(tokens.bags(texts[:0])) == 0


def test_prompt_that_leaves_no_room_for_a_text_is_refused(bert_like: Tokenizer, tmp_path: Path) -> None:
    readings = {QUERY: Reading("find: ", 4, special=True)}
    with pytest.raises(UsageError, match=r"max_tokens: 4 leaves no room.*take 4; allowed: 5 or more"):
        sided(tmp_path, bert_like, readings, {QUERY: RAW})


def test_a_slice_of_bags_holds_the_same_tokens() -> None:
    bags = Bags(np.arange(6, dtype=np.int32), np.array([0, 2, 2, 5, 6]))
    part = bags[1:9]
    assert part.tokens.tolist() == [2, 3, 4, 5]
    assert part.offsets.tolist() == [0, 0, 3, 4]
