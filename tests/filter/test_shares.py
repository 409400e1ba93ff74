"""Shares of wrong decoding and boilerplate: of any text between none and all, and of a text by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.filter.boilerplate import boilerplate_shares
from components.filter.mojibake import mojibake_shares
from components.filter.normalise import clean_text

Shares = Callable[[Sequence[str]], NDArray[np.float64]]
# pieces that patterns begin or end with, among anything
PIECES = [
    "Ã",
    "â€™",
    "锟斤拷",
    "\ufffd",
    "鈥檚",
    "浣犲ソ",
    "ÄãºÃ",
    "¡¯",
    "r茅sum茅",
    " ",
    "\n",
    "|",
    "© 2019",
    "cookies",
]
PIECES += ["版权所有", "责任编辑：", "更多", "上一篇：", "click here to", "we use", "未经许可不得转载"]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(st.characters(codec="utf-8"), max_size=8)), max_size=12)


@pytest.mark.parametrize("shares", [mojibake_shares, boilerplate_shares])
@given(texts=st.lists(TEXT.map("".join).map(clean_text).filter(bool), min_size=1, max_size=4))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_a_share_is_a_texts_own(shares: Shares, texts: list[str]) -> None:
    together = shares(texts)
    assert ((together >= 0) & (together <= 1)).all()
    alone: list[Any] = [shares([text])[0] for text in texts]
    assert together.tolist() == alone


def test_a_text_that_is_all_of_it_has_all_of_it() -> None:
    assert mojibake_shares(["ÄãºÃÊÀ½ç", "\ufffd\ufffd", "a plain text"]).tolist() == [1, 1, 0]
    assert mojibake_shares(["你好，世界".encode().decode("gbk", "ignore")])[0] > 0.8  # its last byte has no partner
    texts = [
        "首页 | 上一篇 | 下一篇 | 联系我们",
        "Read more\nShare this page\nBack to top",
        "版权所有 侵权必究",
        "a plain text",
    ]
    assert boilerplate_shares(texts).tolist() == [1, 1, 1, 0]
