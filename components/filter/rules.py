"""Rules that judge a row by itself: length, heuristics, and how its two sides go together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.filter import characters
from components.filter.params import DEFAULT, FilterParams
from components.filter.shingles import WIDTH, shingle_sets
from components.filter.texts import SAMPLE_CHARACTERS, ShardTexts
from components.filter.verdict import Verdict

REPETITION_CHARACTERS = 100
HEURISTIC_CHARACTERS = 20  # below this a share says nothing: "3.11?" is half digits
RATIO_FLOOR = 10
_URL = re.compile(r"(?:https?://|www\.)[^\s\u3000-\u9fff\uff00-\uffef]+", re.IGNORECASE)
# UTF-8 read as Latin-1 or Windows-1252, GBK read as UTF-8 and back, uninitialised memory, undecodable bytes
_MOJIBAKE = "[ÃÂ][\u0080-\u00bf]|â[\u0080-\u00bf€]|ï»¿|锟斤拷|烫烫烫|屯屯屯|\ufffd"


def judge_presence(texts: ShardTexts, verdict: Verdict) -> None:
    """Drop rows with a side that has no visible character."""
    blank = np.fromiter((not key for key in texts.keys), bool, len(texts.keys))
    verdict.drop(blank[texts.left], "empty", ["text"] * len(texts.left))
    verdict.drop(blank[texts.right], "empty", ["other side"] * len(texts.right))


def judge_length(
    texts: ShardTexts, tasks: NDArray[np.object_], languages: Sequence[str], params: FilterParams, verdict: Verdict
) -> None:
    """Drop rows with a side too short or too long for its language; label texts may be of any length."""
    lengths = texts.lengths
    is_label = tasks == "cls_contrast"
    at_least = _limits(params.min_characters, languages)
    for side, at_most, exempt in (
        (texts.left, _left_limits(tasks, languages, params), np.zeros(len(tasks), bool)),
        (texts.right, _limits(params.max_characters, languages), is_label),
    ):
        details = [f"{length} characters" for length in lengths[side]]
        verdict.drop((lengths[side] < at_least) & ~exempt, "too_short", details)
        verdict.drop((lengths[side] > at_most) & ~exempt, "too_long", details)


def judge_heuristics(
    texts: ShardTexts, counts: NDArray[np.int64], tasks: NDArray[np.object_], params: FilterParams, verdict: Verdict
) -> None:
    """Drop rows with a side of symbols, digits, repetition, addresses or wrongly decoded text; labels are exempt."""
    is_label = tasks == "cls_contrast"
    for reason, shares, worst in (
        ("symbols", _class_share(counts, characters.SYMBOL), params.max_symbol_share),
        ("digits", _class_share(counts, characters.DIGIT), params.max_digit_share),
        ("repetition", _repeated_share(texts), 1 - params.min_distinct_share),
        ("urls", _url_share(texts), params.max_url_share),
        ("mojibake", _mojibake_share(texts), params.max_mojibake_share),
    ):
        for side, exempt in ((texts.left, False), (texts.right, is_label)):
            bad = (shares > worst)[side] & ~np.asarray(exempt)
            if bad.any():
                verdict.drop(bad, reason, [f"{share:.2f}" for share in shares[side]])


def judge_pairs(texts: ShardTexts, tasks: NDArray[np.object_], params: FilterParams, verdict: Verdict) -> None:
    """Drop retrieval rows whose passage is the query, and cosent pairs of very unequal length.

    Identical sides are a fair cosent pair (label: the same), and a title is rightly shorter than its content.
    """
    same = texts.key_ids[texts.left] == texts.key_ids[texts.right]
    verdict.drop(same & (tasks == "retri_contrast"), "identical_sides")
    lengths = np.maximum(texts.lengths, RATIO_FLOOR)
    left, right = lengths[texts.left], lengths[texts.right]
    ratio = np.maximum(left, right) / np.minimum(left, right)
    unequal = (ratio > params.max_length_ratio) & (tasks == "cosent")
    verdict.drop(unequal, "unequal_sides", [f"{value:.1f}" for value in ratio])


def _left_limits(tasks: NDArray[np.object_], languages: Sequence[str], params: FilterParams) -> NDArray[np.int64]:
    is_query = tasks == "retri_contrast"
    return np.where(
        is_query, _limits(params.max_query_characters, languages), _limits(params.max_characters, languages)
    )


def _limits(limits: Mapping[str, int], languages: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter((limits.get(code, limits[DEFAULT]) for code in languages), np.int64, len(languages))


def _class_share(counts: NDArray[np.int64], which: int) -> NDArray[np.float64]:
    total = counts.sum(axis=1)
    return np.where(total >= HEURISTIC_CHARACTERS, counts[:, which] / np.maximum(total, 1), 0.0)


def _repeated_share(texts: ShardTexts) -> NDArray[np.float64]:
    lengths = np.minimum(np.fromiter(map(len, texts.keys), np.int64, len(texts.keys)), SAMPLE_CHARACTERS)
    long = np.flatnonzero(lengths >= REPETITION_CHARACTERS)
    shares = np.zeros(len(lengths))
    distinct = shingle_sets([texts.keys[index][:SAMPLE_CHARACTERS] for index in long]).sizes
    shares[long] = 1 - distinct / (lengths[long] + WIDTH - 1)
    return shares


def _url_share(texts: ShardTexts) -> NDArray[np.float64]:
    holds = pc.match_substring_regex(pa.array(texts.texts, pa.string()), r"(?i)https?://|www\.").to_numpy(False)
    shares = np.zeros(len(texts.texts))
    for index in np.flatnonzero(holds):
        text = texts.texts[index]
        shares[index] = sum(len(match) for match in _URL.findall(text)) / len(text)
    return shares


def _mojibake_share(texts: ShardTexts) -> NDArray[np.float64]:
    found = pc.count_substring_regex(pa.array(texts.texts, pa.string()), _MOJIBAKE).to_numpy(False)
    return np.asarray(2 * found / np.maximum(texts.lengths, 1), np.float64)
