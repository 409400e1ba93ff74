"""A mix of clean pairs and planted defects, each row known by its id: what the filters are held against.

A row is a pair with an id that names its kind and stands in `url`. Clean pairs are real questions, titles and
paraphrases with their passages; every defect is planted in (or beside) other rows of the same sources, in a stated
number.
"""

from __future__ import annotations

import base64
import random
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from benchmarks import texts
from components.core.textnorm import normalise_key

CLEAN = "clean"
TEACHER = "below_threshold"  # the reason of a pair that the teacher refuses
# The suite that must not be trained on, by BEIR folder and split; no clean row comes from it.
SUITE = {"drcd_retrieval": "test", "trecqa_wang": "test"}
NEAR = (0.88, 0.95)  # Jaccard of planted near-duplicates: above the filter's default threshold of 0.85
# Kind of defect → the reasons that are right for it, in the ledger of ingest, filter or score.
KINDS: dict[str, frozenset[str]] = {
    "no passage": frozenset({"empty_text", "empty"}),
    "wrong language (German)": frozenset({"language"}),
    "mojibake": frozenset({"mojibake"}),
    "symbols, digits": frozenset({"symbols", "digits"}),
    "repetition": frozenset({"repetition"}),
    "addresses": frozenset({"urls"}),
    "boilerplate": frozenset({"boilerplate"}),
    "random letters": frozenset({"fluency"}),
    "query in passage": frozenset({"contained", "identical_sides"}),
    "blocked domain": frozenset({"blocked_domain"}),
    "insult": frozenset({"toxicity"}),
    "advertisement": frozenset({"advertisement"}),
    "exact duplicate": frozenset({"exact_duplicate"}),
    "near-duplicate": frozenset({"near_duplicate"}),
    "suite text, equal as normalised": frozenset({"contaminated_exact", "contaminated_near"}),
    "suite passage, nearly equal": frozenset({"contaminated_exact", "contaminated_near"}),
    "passage of another query": frozenset({TEACHER}),
    "inoffensive post (control)": frozenset({TEACHER}),
    "ham message (control)": frozenset({TEACHER}),
}
BLOCKED = "casino.example"
# Kinds whose passage does not answer their query either: if only the teacher refuses them, it is not wrong.
UNRELATED = ("random letters", "insult", "advertisement")
# Kinds that are a copy of a clean row: either of the two may be the one that goes.
COPIES = ("exact duplicate", "near-duplicate")


@dataclass(frozen=True)
class Mix:
    """Rows in shuffled order, and for each copy the id of the row that it copies."""

    rows: list[dict[str, str]]
    origins: dict[str, str]


def mix(clean: int, planted: int, seed: int = 1) -> Mix:
    """`clean` clean rows and `planted` rows of each kind of defect."""
    choose = random.Random(f"dirt {seed}")
    pairs = list(clean_pairs())
    choose.shuffle(pairs)
    if len(pairs) < clean + len(KINDS) * planted:
        raise SystemExit(f"{len(pairs)} clean pairs are too few for {clean} and {planted} of each defect")
    base, rest = pairs[:clean], iter(pairs[clean:])
    rows = [_row(CLEAN, number, *pair) for number, pair in enumerate(base)]
    for kind, maker in _MAKERS.items():
        rows += [_row(kind, number, *maker(choose, rest, number)) for number in range(planted)]
    origins = {}
    half = clean // 2
    exact = choose.sample(range(half), planted)
    near = [
        (half + index, copy) for index, copy in texts.plant([pair[1] for pair in base[half:]], planted, *NEAR, choose)
    ]
    for kind, copies in zip(COPIES, ([(index, base[index][1]) for index in exact], near), strict=True):
        for number, (index, passage) in enumerate(copies):
            rows.append(_row(kind, number, base[index][0], passage))
            origins[rows[-1]["url"]] = row_id(CLEAN, index)
    choose.shuffle(rows)
    return Mix(rows, origins)


def _row(kind: str, number: int, query: str, passage: str) -> dict[str, str]:
    return {"text": query, "text_pos": passage, "url": row_id(kind, number)}


def row_id(kind: str, number: int) -> str:
    """The id of a row: an address, of a blocked domain where that is the defect."""
    host = f"page{number}.{BLOCKED}" if kind == "blocked domain" else "www.example.org"
    return f"https://{host}/{kind}/{number}"


def kind_of(row: str) -> str:
    """The kind of defect that an id names, or CLEAN."""
    return row.split("/")[3]


def clean_pairs() -> Iterator[tuple[str, str]]:
    """Distinct (query, passage) pairs, no text twice on one side."""
    seen: set[str] = set()
    for query, passage in _sources():
        keys = {normalise_key(query), normalise_key(passage)}
        if len(keys) == 2 and "" not in keys and not keys & seen:
            seen |= keys
            yield query, passage


def _sources() -> Iterator[tuple[str, str]]:
    for folder, splits in (("cmrc2018_retrieval", ("dev", "trial")), ("csl_title2abs", ("dev", "test"))):
        yield from _relevant(folder, splits)
    for row in texts.rows("cranfield/corpus.jsonl.gz"):
        body = row["text"].removeprefix(row["title"]).strip(" .")
        if row["title"] and len(body) >= 80:
            yield row["title"], body
    for name, least in (("mrpc__train", 1), ("sts12__train", 3), ("stsb_en__train", 3)):
        for row in texts.rows(f"en_train_clean/{name}.jsonl.gz"):
            if row["label"] >= least:
                yield row["text"], row["text_pair"]
    for name in ("atec__train", "lcqmc__dev", "bq__dev"):
        for row in texts.rows(f"zh_train_clean/{name}.jsonl.gz"):
            if row["label"] == 1:
                yield row["text"], row["text_pair"]


def _relevant(folder: str, splits: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The relevant pairs of a BEIR folder."""
    queries = {row["_id"]: row["text"] for row in texts.rows(f"{folder}/queries.jsonl.gz")}
    passages = {row["_id"]: row["text"] for row in texts.rows(f"{folder}/corpus.jsonl.gz")}
    for split in splits:
        lines = (texts.shared_data() / folder / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
        for line in lines[1:]:
            query, passage, grade = line.split("\t")
            if int(grade) > 0:
                yield queries[query], passages[passage]


# What the classifiers learn from, and what is planted: disjoint texts of the same data sets.


def spam_parts() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The messages to train on and the messages to plant: 6 of 10 texts, by their key, and the rest."""
    parts: tuple[list[dict[str, str]], list[dict[str, str]]] = ([], [])
    for row in texts.rows("sms_spam_en/all.jsonl.gz"):
        key = normalise_key(row["text"])
        parts[random.Random(f"spam {key}").random() >= 0.6].append(row)
    return parts


@lru_cache(maxsize=1)
def _spam() -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {"spam": {}, "ham": {}}
    for row in spam_parts()[1]:
        found[row["label"]][row["text"]] = None
    return {label: list(kept) for label, kept in found.items()}


@lru_cache(maxsize=1)
def _posts() -> dict[int, list[str]]:
    """Posts of the test part by label (1: offensive), without any text of the training part."""
    trained = {normalise_key(row["text"]) for row in texts.rows("cold/train.jsonl.gz", "cold/dev.jsonl.gz")}
    found: dict[int, dict[str, None]] = {0: {}, 1: {}}
    for row in texts.rows("cold/test.jsonl.gz"):
        if normalise_key(row["text"]) not in trained:
            found[row["label"]][row["text"]] = None
    return {label: list(kept) for label, kept in found.items()}


# Makers of defects: (choose, fresh clean pairs, number of the row) → (query, passage).

Pairs = Iterator[tuple[str, str]]
Maker = Callable[[random.Random, Pairs, int], tuple[str, str]]


def _chinese(pairs: Pairs) -> tuple[str, str]:
    return next(pair for pair in pairs if re.search("[一-鿿]", pair[1]))


def _no_passage(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    return next(pairs)[0], choose.choice(["", " \n", "\u200b\u200d", "\ufeff"])


@lru_cache(maxsize=1)
def _german_lines() -> list[str]:
    from resiliparse.extract.html2text import extract_plain_text

    lines: dict[str, None] = {}
    for row in texts.rows("html_trafilatura/all.jsonl.gz"):
        if re.search(r"/[^/]*\.(de|at)\.[^/]*$", row["id"]):
            text = extract_plain_text(row["html"], main_content=True)
            lines |= dict.fromkeys(line.strip() for line in text.splitlines() if 80 <= len(line.strip()) <= 600)
    return [line for line in lines if len(re.findall(r"\b(?:und|der|die|das|nicht|ist|ein|eine)\b", line)) >= 2]


def _german(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    lines = _german_lines()
    return lines[2 * number][:200], lines[2 * number + 1]


def _mojibake(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    query, passage = _chinese(pairs)
    encoding = ("latin-1", "cp1252", "gb18030")[number % 3]  # UTF-8 read as something else
    return query, passage.encode().decode(encoding, errors="replace")


def _symbols(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    alphabet = string.punctuation if number % 2 else string.digits + "|,"
    return next(pairs)[0], " ".join("".join(choose.choices(alphabet, k=9)) for _ in range(choose.randint(8, 30)))


def _repetition(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    query, passage = next(pairs)
    return query, " ".join([passage[: choose.randint(15, 40)]] * choose.randint(12, 30))


def _addresses(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    query, passage = next(pairs)
    paths = (base64.b32encode(choose.randbytes(10)).decode().lower() for _ in range(choose.randint(4, 9)))
    return query, "\n".join([passage[:60], *(f"https://www.example.com/{path}/index.html" for path in paths)])


_NOTICES = (
    "Copyright 2019 Example Media. All rights reserved.",
    "We use cookies to improve your experience on this website.",
    "Home | About us | Contact us | Privacy policy | Terms of use",
    "Subscribe to our weekly newsletter.",
    "Share this article on Facebook",
    "Please enable JavaScript to view the comments.",
    "Read more\nRelated articles\nLeave a comment",
)
_NOTICES_ZH = (
    "版权所有 未经授权禁止转载",
    "首页 | 关于我们 | 联系我们 | 网站地图",
    "责任编辑：张三",
    "上一篇：没有了\n下一篇：返回列表",
    "扫描下方二维码关注我们的公众号",
    "点击查看更多\n我要评论\n分享到：微信 微博",
    "本网站内容仅供参考，不承担任何责任",
)


def _boilerplate(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    notices = _NOTICES_ZH if number % 2 else _NOTICES
    return next(pairs)[0], "\n".join(choose.sample(notices, choose.randint(3, 5)))


def _letters(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    words = ("".join(choose.choices(string.ascii_lowercase, k=choose.randint(2, 10))) for _ in range(40))
    if number % 2:
        return next(pairs)[0], " ".join(words)
    characters = sorted({character for text in texts.paragraphs("zh")[:300] for character in text if character >= "一"})
    return next(pairs)[0], "".join(choose.choices(characters, k=120))


def _contained(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    query, _ = next(pairs)
    return query, query if number % 2 else f"{query}?"


def _blocked(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    return next(pairs)


def _insult(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    return _chinese(pairs)[0], _posts()[1][number]


def _post(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    return _chinese(pairs)[0], _posts()[0][number]


def _advertisement(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    return texts.questions("en")[number], _spam()["spam"][number]


def _ham(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    return texts.questions("en")[-1 - number], _spam()["ham"][number]


@lru_cache(maxsize=1)
def _suite_pairs() -> list[tuple[str, str]]:
    found = [pair for folder, split in SUITE.items() for pair in _relevant(folder, (split,))]
    distinct = list({pair[1]: pair for pair in found}.values())
    random.Random("suite").shuffle(distinct)
    return distinct


def _suite_equal(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    from opencc import OpenCC

    query, passage = _suite_pairs()[number]
    wide = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})
    disguise: Any = (str, OpenCC("t2s").convert, str.upper, lambda text: text.translate(wide))[number % 4]
    return (disguise(query), next(pairs)[1]) if number // 4 % 2 else (next(pairs)[0], disguise(passage))


def _suite_near(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    passages = [passage for _, passage in reversed(_suite_pairs()) if len(passage) >= texts.PARAGRAPH[0]]
    found = (texts.near_duplicate(passage, *NEAR, choose) for passage in passages[2 * number : 2 * number + 2])
    return next(pairs)[0], next(copy for copy in found if copy is not None)


def _other(choose: random.Random, pairs: Pairs, number: int) -> tuple[str, str]:
    return next(pairs)[0], next(pairs)[1]


_MAKERS: dict[str, Maker] = {
    "no passage": _no_passage,
    "wrong language (German)": _german,
    "mojibake": _mojibake,
    "symbols, digits": _symbols,
    "repetition": _repetition,
    "addresses": _addresses,
    "boilerplate": _boilerplate,
    "random letters": _letters,
    "query in passage": _contained,
    "blocked domain": _blocked,
    "insult": _insult,
    "advertisement": _advertisement,
    "suite text, equal as normalised": _suite_equal,
    "suite passage, nearly equal": _suite_near,
    "passage of another query": _other,
    "inoffensive post (control)": _post,
    "ham message (control)": _ham,
}
