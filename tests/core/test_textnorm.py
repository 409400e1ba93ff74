from __future__ import annotations

import numpy as np
import opencc
from hypothesis import given, settings
from hypothesis import strategies as st

from components.core.textnorm import key_ids, normalise_key, normalise_keys, text_id, text_ids


def test_texts_that_look_the_same_share_a_key() -> None:
    assert normalise_key("Ｒｅａｄ　ａ  CSV\n\tfile") == "read a csv file"
    assert normalise_key("怎么还款？") == normalise_key("怎么还款?")
    assert normalise_key("ﬁle") == "file"
    assert normalise_key("Straße") == normalise_key("STRASSE")
    assert normalise_key("cafe\u0301") == normalise_key("caf\u00e9")


def test_invisible_characters_do_not_count() -> None:
    assert normalise_key("\ufeffre\u00adad\u200b \u202efile\u202c\x00\x07") == "read file"
    assert normalise_key("\u200b \n\u2060") == ""


def test_traditional_and_simplified_chinese_are_one_text() -> None:
    assert normalise_key("怎麼開通花唄？") == normalise_key("怎么开通花呗?") == "怎么开通花呗?"
    assert normalise_key("他看著電腦") == normalise_key("他看着电脑")  # as written in Taiwan
    assert normalise_key("衞生署") == normalise_key("卫生署")  # as written in Hong Kong
    assert normalise_key("乾坤") == normalise_key("干坤")  # by character: no phrase can make a key depend on context
    assert normalise_key("ひらがなと漢字") == normalise_key("ひらがなと汉字")


def test_every_ideograph_has_the_key_of_its_simplified_form() -> None:
    letters = [chr(code) for code in (*range(0x3400, 0x4DC0), *range(0x4E00, 0xA000), *range(0x20000, 0x323B0))]
    simplified = opencc.OpenCC("t2s").convert("\n".join(letters)).split("\n")
    assert [normalise_key(letter) for letter in letters] == [normalise_key(letter) for letter in simplified]
    assert sum(normalise_key(letter) != letter for letter in letters) > 4600


CHINESE = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=12)


@given(CHINESE, CHINESE)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_the_key_of_chinese_depends_on_no_neighbour(left: str, right: str) -> None:
    assert normalise_key(left + right) == normalise_key(left) + normalise_key(right)
    assert normalise_key(normalise_key(left)) == normalise_key(left)


def test_one_meaningful_character_changes_the_key() -> None:
    assert normalise_key("怎么开通花呗") != normalise_key("怎么关通花呗")
    assert normalise_key("x-y") != normalise_key("x y")


@given(st.text(st.characters(codec="utf-8"), max_size=30))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_the_key_is_idempotent(text: str) -> None:
    key = normalise_key(text)
    assert normalise_key(key) == key


def test_the_key_of_every_single_character_is_idempotent() -> None:
    characters = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x1FC00), *range(0x20000, 0x323B0)]]
    keys = [normalise_key(f"a{character}b") for character in characters]
    assert [normalise_key(key) for key in keys] == keys


@given(st.text(st.characters(max_codepoint=127), max_size=40))
@settings(max_examples=300, derandomize=True, deadline=None)
def test_the_ascii_path_agrees_with_the_general_one(text: str) -> None:
    assert normalise_key(f"{text} é") == f"{normalise_key(text)} é".lstrip()


# letters, marks and spaces that act on their neighbours, beside any character at all
TOUCHY = st.sampled_from([*"aÉſß ﬁ…㎏\t\u3000\u200b\u0301\u0345각가ｶﾞがΣσςİ著麼干"])


@given(st.lists(st.text(st.one_of(TOUCHY, st.characters(codec="utf-8")), max_size=12), max_size=6))
@settings(max_examples=500, derandomize=True, deadline=None)
def test_many_keys_at_once_are_the_keys_one_by_one(texts: list[str]) -> None:
    assert normalise_keys(texts) == [normalise_key(text) for text in texts]


def test_the_table_of_keys_holds_for_every_character_and_its_neighbours() -> None:
    characters = [chr(code) for code in (*range(0xD800), *range(0xE000, 0x10400))]
    for before, after in (("", ""), ("e", "가"), ("가 ", " é"), ("ｶ", "ᆨ"), ("\u0915", "\u0301")):
        texts = [f"{before}{character}{after}" for character in characters]
        assert normalise_keys(texts) == [normalise_key(text) for text in texts]


def test_ids_are_stable_and_vectorised() -> None:
    assert text_id("read a csv file") == 0x2D90723B354E893C
    texts = ["怎么还款", "", "a", "A"]
    assert text_ids(texts).dtype == np.uint64
    assert text_ids(texts).tolist() == [text_id(text) for text in texts]
    assert key_ids(texts)[2] == key_ids(texts)[3]
