"""Real text for the benchmarks, read in place from the shared data, and what is made from it by fixed rules.

Every generator is a function of its arguments and of the text alone: no clock, no global random state, no hash seed.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from components.core.textnorm import normalise_key

PROJECT = Path(__file__).resolve().parents[1]
# Characters of a paragraph: shorter ones are captions and crumbs, longer ones are cut.
PARAGRAPH = (80, 3000)
WIDTH = 5
SAMPLE = 2000  # characters of a text that stand for the whole where the filter compares shingles


def shared_data() -> Path:
    """The folder of public datasets: EMBEDMILL_SHARED_DATA, or the one beside the checkout."""
    path = Path(os.environ.get("EMBEDMILL_SHARED_DATA", PROJECT.parent / "shared" / "data"))
    if not path.is_dir():
        raise SystemExit(f"{path} is missing: set EMBEDMILL_SHARED_DATA to the folder of public datasets")
    return path


def rows(*names: str) -> Iterator[dict[str, Any]]:
    """The rows of files of the shared data, one after the other."""
    for name in names:
        with gzip.open(shared_data() / name, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)


@lru_cache(maxsize=2)
def paragraphs(lang: str) -> tuple[str, ...]:
    """Distinct real paragraphs: encyclopaedia and abstracts (zh); abstracts, answers and news articles (en)."""
    found: dict[str, None] = {}
    if lang == "zh":
        names = [f"{name}/corpus.jsonl.gz" for name in ("cmrc2018_retrieval", "drcd_retrieval", "csl_title2abs")]
        bodies = (row["text"] for row in rows(*names))
    else:
        bodies = (row["text"] for row in rows("cranfield/corpus.jsonl.gz", "trecqa_wang/corpus.jsonl.gz"))
        found.update(dict.fromkeys(_article_paragraphs()))
    found.update(dict.fromkeys(body.strip()[: PARAGRAPH[1]] for body in bodies if len(body.strip()) >= PARAGRAPH[0]))
    return tuple(found)


def _article_paragraphs() -> Iterator[str]:
    for row in rows("html_article_en/test.jsonl.gz"):
        for body in row["text"].split("\n\n"):
            if len(body.strip()) >= PARAGRAPH[0]:
                yield body.strip()[: PARAGRAPH[1]]


@lru_cache(maxsize=2)
def questions(lang: str) -> tuple[str, ...]:
    """Distinct short texts of people: questions and statements."""
    if lang == "zh":
        names = [f"zh_train_clean/{name}.jsonl.gz" for name in ("atec__train", "simclue__train_pair_1w", "lcqmc__dev")]
        found = [row["text"] for row in rows(*names)]
    else:
        names = [f"en_train_clean/{name}.jsonl.gz" for name in ("mrpc__train", "sts12__train", "stsb_en__train")]
        found = [row["text"] for row in rows("banking77/train.jsonl.gz", *names)]
    return tuple(dict.fromkeys(text.strip() for text in found if len(text.strip()) >= 8))


@lru_cache(maxsize=2)
def sentences(lang: str) -> tuple[str, ...]:
    """Distinct sentences of the paragraphs."""
    end = r"(?<=[。！？；])" if lang == "zh" else r"(?<=[.!?]) +"
    parts = (part.strip() for text in paragraphs(lang) for part in re.split(end, text))
    return tuple(dict.fromkeys(part for part in parts if len(part) >= (12 if lang == "zh" else 30)))


def documents(lang: str, count: int, seed: int) -> list[str]:
    """`count` distinct documents: the real paragraphs first, then recombined sentences of them."""
    choose = random.Random(f"documents {lang} {seed}")
    real = list(paragraphs(lang))
    choose.shuffle(real)
    found = dict.fromkeys(real[:count])
    while len(found) < count:
        found[recombined(lang, choose, choose.randint(4, 9))] = None
    return list(found)


def recombined(lang: str, choose: random.Random, parts: int) -> str:
    """A text of `parts` sentences from anywhere in the pool."""
    pool = sentences(lang)
    return ("" if lang == "zh" else " ").join(pool[choose.randrange(len(pool))] for _ in range(parts))


def shingles(text: str) -> frozenset[str]:
    """The text's set of character 5-grams as filter defines it: of the key, padded on both sides, 2,000 characters."""
    key = normalise_key(text)[:SAMPLE]
    padded = "\0" * (WIDTH - 1) + key + "\0" * (WIDTH - 1)
    return frozenset(padded[start : start + WIDTH] for start in range(len(key) + WIDTH - 1)) if key else frozenset()


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity by Python sets: nothing shared with the kernel that is measured."""
    return len(one & other) / len(one | other) if one and other else 0.0


def near_duplicate(text: str, low: float, high: float, choose: random.Random) -> str | None:
    """`text` with characters replaced by others of it until its Jaccard lies in [low, high]; None if that fails."""
    own = shingles(text)
    for _ in range(20):
        letters = list(text)
        while True:
            # one replaced character costs WIDTH shingles: a third of what is missing at a time never overshoots by much
            similarity = jaccard(own, shingles("".join(letters)))
            if similarity <= high:
                break
            missing = (similarity - (low + high) / 2) * len(own) / (2 * WIDTH)
            for _ in range(max(1, round(missing / 3))):
                letters[choose.randrange(min(len(letters), SAMPLE))] = choose.choice(text)
        if similarity >= low:
            return "".join(letters)
    return None


def plant(base: Sequence[str], copies: int, low: float, high: float, choose: random.Random) -> list[tuple[int, str]]:
    """`copies` near-duplicates of different texts of `base`: (which text, the copy)."""
    planted: list[tuple[int, str]] = []
    for index in choose.sample(range(len(base)), len(base)):
        if len(planted) == copies:
            return planted
        copy = near_duplicate(base[index], low, high, choose) if len(base[index]) >= PARAGRAPH[0] else None
        if copy is not None:
            planted.append((index, copy))
    raise SystemExit(f"only {len(planted)} of {copies} near-duplicates fit in [{low}, {high}]")


def pair(seed: int, index: int) -> dict[str, Any]:
    """Row `index` of an endless stream of training pairs: 8 % repeat an earlier row exactly, 8 % nearly."""
    choose = random.Random(f"pair {seed} {index}")
    kind = choose.random()
    if kind < 0.16 and index:
        origin = _fresh_pair(seed, choose.randrange(index))
        if kind >= 0.08:
            body = list(origin["text_pos"])
            for _ in range(max(1, len(body) // 150)):
                body[choose.randrange(len(body))] = choose.choice(body)
            origin["text_pos"] = "".join(body)
        return origin
    return _fresh_pair(seed, index)


def _fresh_pair(seed: int, index: int) -> dict[str, Any]:
    choose = random.Random(f"fresh {seed} {index}")
    lang = "zh" if choose.random() < 0.6 else "en"
    # lengths are skewed as real ones are: most passages are short, a few long
    body = recombined(lang, choose, min(12, 1 + int(choose.expovariate(0.5))))
    pool = questions(lang)
    start = choose.randrange(max(1, len(body) - 20))
    topic = body[start : start + 8] if lang == "zh" else " ".join(body[start:].split()[1:4])
    return {"text": f"{pool[choose.randrange(len(pool))]} {topic}", "text_pos": body}


def write_jsonl(path: Path, records: Iterator[dict[str, Any]]) -> int:
    """Write rows as JSON lines; returns the bytes of their texts (UTF-8)."""
    total = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            total += sum(len(value.encode()) for value in record.values() if isinstance(value, str))
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return total
