from __future__ import annotations

from typing import Any

import pytest

from components.core.records import record_table
from components.filter.contamination import Reference
from components.filter.judgement import judge
from components.filter.params import FilterParams
from components.filter.reasons import REASONS

PASSAGE = "Open the file that is named and give back its rows, one after the other, as lists of text."


def reason(row: dict[str, Any], **params: Any) -> str:
    table = record_table([{"source": "test", **row}])
    judged = judge(table, FilterParams.model_validate({"languages": [], **params}), Reference.of((), None))
    return REASONS[judged.verdict.codes[0]]


def retrieval(query: str = "read a csv file", passage: str = PASSAGE) -> dict[str, Any]:
    return {"task": "retri_contrast", "text": query, "text_pos": passage}


def cosent(left: str, right: str, label: float = 1.0) -> dict[str, Any]:
    return {"task": "cosent", "text": left, "text_pair": right, "label": label}


def label(text: str, name: str) -> dict[str, Any]:
    return {"task": "cls_contrast", "text": text, "text_pos": name}


@pytest.mark.parametrize(
    "row",
    [
        retrieval(),
        retrieval("怎么还款", "打开支付宝，点击花呗，选择还款。"),
        cosent("怎么还", "如何还款"),
        cosent("借不到", "为什么我的微粒贷额度从三万降到了一万而且现在还不能借出来呢"),
        label(PASSAGE, "io"),
        label(PASSAGE, "3"),
        retrieval("numpy ndarray", "def ndarray(shape, dtype=float, buffer=None, offset=0, strides=None, order=None)"),
        retrieval("What is 2 + 2?", "It is 4."),
        retrieval(
            "他说了什么", "他大声地说：这真是太好了！！！！！！！！！！然后他就高高兴兴地走了，再也没有回来。好！好！"
        ),
        retrieval("Projects", f"{PASSAGE} See https://docs.python.org/3/library/csv.html."),
        retrieval("标题", "内容" * 6 + "很多不同的字组成了这样一段中文，它不重复，也没有网址。"),
    ],
)
def test_good_rows_pass(row: dict[str, Any]) -> None:
    assert reason(row) == ""


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (retrieval(query="\u200b \n"), "empty"),
        (retrieval(passage="\u3164"), "empty"),
        (label(PASSAGE, " "), "empty"),
        (retrieval(query="ab"), "too_short"),
        (retrieval(query="word " * 300), "too_long"),
        (retrieval(passage=f"{PASSAGE} " * 300), "too_long"),
        (retrieval(passage="+---+---+\n| a | b |\n+---+---+\n| c | d |\n+---+---+"), "symbols"),
        (retrieval(passage="12 435 3245 53 4321 4312 4234 99 and so on"), "digits"),
        (retrieval(passage="buy now! " * 30), "repetition"),
        (retrieval(passage="See https://example.org/a/long/path/to/some/page?with=arguments for it."), "urls"),
        (retrieval(passage="Itâ€™s broken: cafÃ© and naÃ¯ve, all of it."), "mojibake"),
        (retrieval(passage="锟斤拷锟斤拷烫烫烫 以及一些别的中文字符在后面"), "mojibake"),
        (retrieval(query=PASSAGE.upper(), passage=PASSAGE), "identical_sides"),
        (retrieval(passage=f"{PASSAGE} {PASSAGE}"), "repetition"),
        (retrieval(passage="ha" * 30), "repetition"),
        (retrieval(passage="点击领取红包。" * 8), "repetition"),
        (
            retrieval(passage="© 2019 Example Media Ltd. All rights reserved.\nRead more | Share | Contact us"),
            "boilerplate",
        ),
        (
            retrieval(passage="We use cookies to give you the best experience. Accept all cookies | Settings"),
            "boilerplate",
        ),
        (
            retrieval(passage="责任编辑：王小明\n上一篇：没有了\n版权所有 未经许可不得转载\n关于我们 | 联系我们"),
            "boilerplate",
        ),
        (retrieval(query=PASSAGE[:-3], passage=PASSAGE), "contained"),
        (retrieval(query="怎么开通花唄", passage="怎么开通花呗呢?"), ""),
        (retrieval(query="怎么開通花唄", passage="怎么开通花呗?"), "contained"),
        (cosent("短句子", "".join(map(chr, range(0x4E00, 0x5200)))), "unequal_sides"),
    ],
)
def test_bad_rows_are_dropped_for_their_reason(row: dict[str, Any], expected: str) -> None:
    assert reason(row) == expected


@pytest.mark.parametrize(
    "passage",
    [
        "How do I read more books? Subscribe to a library, says the librarian, and log in to its catalogue at home.",
        "The cookie policy of a browser says which sites may set cookies; a site without them forgets who you are.",
        "著作权归作者所有，他人转载应当得到同意；这是法律对版权的保护，也是对作者劳动的尊重。",
        "点击鼠标右键，选择属性，然后在弹出的窗口中关闭自动更新，重新启动电脑以后就可以了。",
        "Copyright law gives the author of a text the right to say who may copy it, for some seventy years.",
    ],
)
def test_text_about_the_words_of_boilerplate_stays(passage: str) -> None:
    assert reason(retrieval(passage=passage)) == ""


def test_one_notice_at_the_end_of_an_article_stays() -> None:
    assert reason(retrieval(passage=f"{PASSAGE} It closes the file afterwards.\n© 2019 Example Media Ltd.")) == ""


CHINESE = ["花呗的账单日是每月的哪一天？", "打开支付宝，点击花呗，选择还款，然后输入密码。", "信用卡怎么还款"]
ENGLISH = ["“Don’t panic,” she said — it’s only café talk.", "Müller’s “naïve” résumé: no façade, no cliché."]


@pytest.mark.parametrize("text", CHINESE)
@pytest.mark.parametrize(
    ("written", "read"),
    [("utf-8", "gbk"), ("utf-8", "latin-1"), ("utf-8", "cp1252"), ("gbk", "utf-8"), ("gbk", "latin-1")],
)
def test_chinese_read_with_a_wrong_encoding_is_found(text: str, written: str, read: str) -> None:
    broken = text.encode(written).decode(read, "replace")
    assert reason(retrieval(passage=broken)) == "mojibake"
    if read != "utf-8":
        twice = broken.encode().decode(read, "replace")
        assert reason(retrieval(passage=twice)) == "mojibake"


@pytest.mark.parametrize("text", ENGLISH)
@pytest.mark.parametrize(
    ("written", "read"),
    [("utf-8", "cp1252"), ("utf-8", "latin-1"), ("utf-8", "gbk"), ("cp1252", "utf-8"), ("gbk", "latin-1")],
)
def test_english_read_with_a_wrong_encoding_is_found(text: str, written: str, read: str) -> None:
    assert reason(retrieval(passage=text.encode(written, "ignore").decode(read, "replace"))) == "mojibake"


def test_an_accent_that_became_an_ideograph_is_found() -> None:
    assert reason(retrieval(passage="The caf茅 of the mus茅e is open; its r茅sum茅 is short.")) == "mojibake"
    for passage in (
        "They drank 茅台 in the mus茅e, says the guide, and left.",
        "The sign 茅 is read mao.",
        "app每天用, wifi没网",
    ):
        assert reason(retrieval(passage=passage)) == ""


@pytest.mark.parametrize(
    "text",
    [
        *CHINESE,
        *ENGLISH,
        "«Il a mangé», répondit-elle; «c’est la liberté», ajouta l’élève. Été à Noël, où ça?",
        "São João não é só uma canção: Às três, ângulo «ê», avô e avó.",
        "Þæð er ölið — 25 °C, ½ Liter, §§ 12–14, £5·€6·¥7 ±2 ×3 ÷4 “quoted”…",
        "憂鬱的臺灣烏龜，尋釁幾番，纔喫了鱉鏡閱錚。",
        "涓涓細流，鏗鏘有力，浜鉄道的広告，琴瑟和鸣，饕餮盛宴，魑魅魍魉。",
        "Đây là một câu tiếng Việt được viết đúng, với đủ dấu: ầ ẫ ậ ấ.",
        "これは正しい日本語の文章です。ﾊﾝｶｸｶﾅも混ざっています。",
    ],
)
def test_rightly_decoded_text_is_no_mojibake(text: str) -> None:
    assert reason(retrieval(passage=text)) == ""


def test_a_title_may_stand_in_its_abstract() -> None:
    title = "具有无穷时滞的随机模糊微分方程"
    assert reason(retrieval(title, f"在弱线性增长条件下，我们证明了{title}强解的存在唯一性。")) == ""
    assert reason(retrieval(title, f"论{title}的解"), max_contained_share={"retri_contrast": 0.5}) == "contained"
    assert reason(cosent(title, f"论{title}")) == ""
    assert reason(cosent(title, f"论{title}"), max_contained_share={"cosent": 0.5}) == "contained"


def test_a_length_ratio_holds_for_the_tasks_that_have_one() -> None:
    pair = retrieval("read it", PASSAGE)
    assert reason(pair) == ""
    assert reason(pair, max_length_ratio={"retri_contrast": 5}) == "unequal_sides"
    assert reason(cosent("read it", PASSAGE), max_length_ratio={"retri_contrast": 5}) == ""


@pytest.mark.parametrize(
    ("name", "passage", "strict", "expected"),
    [
        ("max_symbol_share", "很多……符号！！！在这里？？？还有字啊啊啊", 0.3, "symbols"),
        ("max_digit_share", "电话13800138000转8001，房间号是2046", 0.3, "digits"),
        ("max_url_share", "网址 https://example.org/a/b 在这里，请打开看", 0.3, "urls"),
        ("max_boilerplate_share", "版权所有 侵权必究\n这里是正文，讲了一些别的事情，很长很长", 0.1, "boilerplate"),
        (
            "max_mojibake_share",
            "这里缺了一个\ufffd字，别的都是对的，所以可以留下来，因为这句话很长很长，比一百个字还要长一些呢" * 3,
            0,
            "mojibake",
        ),
    ],
)
def test_every_share_can_differ_by_language(name: str, passage: str, strict: float, expected: str) -> None:
    loose = {name: 1.0, "max_repeated_share": 1.0}
    pair = retrieval("这是一个用中文写的问题，它有很多个汉字", passage)
    assert reason(pair, **loose) == ""
    assert reason(pair, **{**loose, name: {"default": 1.0, "zh": strict}}) == expected
    assert reason(pair, **{**loose, name: {"default": strict, "zh": 1.0}}) == ""


def test_identical_sides_are_a_fair_cosent_pair() -> None:
    assert reason(cosent("一个男人在跳舞。", "一个男人在跳舞。", 5.0)) == ""


def test_a_summary_may_be_paired_with_a_whole_passage() -> None:
    assert reason(cosent("Read a file.", " ".join(f"line {index} of it" for index in range(60)))) == ""


def test_thresholds_can_differ_by_language() -> None:
    short = {"min_characters": {"default": 12, "zh": 2}}
    assert reason(cosent("a short text", "too short"), **short) == "too_short"
    assert reason(cosent("还款", "怎么还"), **short) == ""
    assert reason(cosent("还款", "怎么还"), min_characters=3) == "too_short"


def test_the_first_reason_counts_and_has_a_detail() -> None:
    table = record_table([{"source": "test", **retrieval(query="a", passage="锟斤拷锟斤拷")}])
    judged = judge(table, FilterParams(languages=()), Reference.of((), None))
    assert REASONS[judged.verdict.codes[0]] == "too_short"
    assert judged.verdict.details == ["1 characters"]
