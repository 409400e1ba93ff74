"""Rules that judge a row by itself: length, heuristics, and how its two sides go together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from components.filter import characters
from components.filter.boilerplate import boilerplate_shares
from components.filter.mojibake import mojibake_shares
from components.filter.params import DEFAULT, FilterParams
from components.filter.shingles import WIDTH, shingle_sets
from components.filter.texts import SAMPLE_CHARACTERS, ShardTexts
from components.filter.verdict import Mask, Verdict

REPETITION_CHARACTERS = 40  # below this even one letter over and over has distinct 5-grams at its ends
HEURISTIC_CHARACTERS = 20  # below this a share says nothing: "3.11?" is half digits
RATIO_FLOOR = 10
_URL = re.compile(r"(?:https?://|www\.)[^\s\u3000-\u9fff\uff00-\uffef]+", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|(?<=[。！？])(?![。！？])|(?<=[.!?])\s")


def judge_presence(texts: ShardTexts, verdict: Verdict) -> None:
    """Drop rows with a side that has no visible character."""
    blank = np.fromiter((not key for key in texts.keys), bool, len(texts.keys))
    verdict.drop(blank[texts.left], "empty", ["text"] * len(texts.left))
    verdict.drop(blank[texts.right], "empty", ["other side"] * len(texts.right))


def judge_length(
    texts: ShardTexts, tasks: NDArray[np.object_], languages: Sequence[str], params: FilterParams, verdict: Verdict
) -> None:
    """Drop rows with a side too short or too long for its language; label texts may be of any length."""
    limit = _Limits(languages)
    at_least, at_most = limit(params.min_characters), limit(params.max_characters)
    at_most_left = np.where(tasks == "retri_contrast", limit(params.max_query_characters), at_most)
    judged_right = tasks != "cls_contrast"
    lengths = texts.lengths
    for length, longest, judged in (
        (lengths[texts.left], at_most_left, True),
        (lengths[texts.right], at_most, judged_right),
    ):
        _drop(verdict, (length < at_least) & judged, "too_short", length, "{} characters")
        _drop(verdict, (length > longest) & judged, "too_long", length, "{} characters")


def judge_heuristics(
    texts: ShardTexts,
    counts: NDArray[np.int64],
    tasks: NDArray[np.object_],
    languages: Sequence[str],
    params: FilterParams,
    verdict: Verdict,
) -> None:
    """Drop rows with a side of wrongly decoded text, symbols, digits, repetition, addresses or boilerplate.

    Label texts are exempt. Each share [T] is of a text's characters; the limits go by the row's language.
    """
    limit = _Limits(languages)
    judged_right = tasks != "cls_contrast"
    repeated = _repeated_share(texts)
    for reason, shares, limits, detail in (
        ("mojibake", mojibake_shares(texts.texts), limit(params.max_mojibake_share), "{:.3f} of it"),
        ("symbols", _symbol_share(counts), limit(params.max_symbol_share), "{:.2f} of it"),
        ("digits", _class_share(counts, characters.DIGIT), limit(params.max_digit_share), "{:.2f} of it"),
        ("repetition", repeated, 1 - limit(params.min_distinct_share), "{:.2f} of its 5-grams"),
        (
            "repetition",
            _repeated_sentences(texts, repeated, min(params.max_repeated_share.values())),
            limit(params.max_repeated_share),
            "{:.2f} in lines or sentences",
        ),
        ("urls", _url_share(texts), limit(params.max_url_share), "{:.2f} of it"),
        ("boilerplate", _boilerplate_share(texts), limit(params.max_boilerplate_share), "{:.2f} of it"),
    ):
        for side, judged in ((texts.left, True), (texts.right, judged_right)):
            _drop(verdict, (shares[side] > limits) & judged, reason, shares[side], detail)


def judge_pairs(texts: ShardTexts, tasks: NDArray[np.object_], params: FilterParams, verdict: Verdict) -> None:
    """Drop retrieval rows whose passage is the query, and rows whose sides hold or outgrow each other too much.

    Identical sides are a fair cosent pair (label: the same), and a title is rightly shorter than its content.
    """
    same = texts.key_ids[texts.left] == texts.key_ids[texts.right]
    verdict.drop(same & (tasks == "retri_contrast"), "identical_sides")
    lengths = texts.key_lengths
    left, right = lengths[texts.left], lengths[texts.right]
    for task, most in params.max_contained_share.items():
        share = np.minimum(left, right) / np.maximum(np.maximum(left, right), 1)
        inside = (share > most) & (tasks == task) & ~same & verdict.kept
        for row in np.flatnonzero(inside).tolist():
            shorter, longer = sorted((texts.keys[texts.left[row]], texts.keys[texts.right[row]]), key=len)
            inside[row] = shorter in longer
        _drop(verdict, inside, "contained", share, "{:.2f} of the longer side")
    lengths = np.maximum(texts.lengths, RATIO_FLOOR)
    left, right = lengths[texts.left], lengths[texts.right]
    ratio = np.maximum(left, right) / np.minimum(left, right)
    for task, largest in params.max_length_ratio.items():
        _drop(verdict, (ratio > largest) & (tasks == task), "unequal_sides", ratio, "{:.1f} times as long")


class _Limits:
    """Looks thresholds by language up for the rows of a shard."""

    def __init__(self, languages: Sequence[str]) -> None:
        encoded = pa.array(languages, pa.string()).dictionary_encode()
        self.names: list[str] = encoded.dictionary.to_pylist()
        self.codes = encoded.indices.to_numpy()

    def __call__(self, limits: Mapping[str, float]) -> NDArray[np.float64]:
        """The threshold of each row [N]."""
        values = [float(limits.get(name, limits[DEFAULT])) for name in self.names]
        rows: NDArray[np.float64] = np.array(values)[self.codes]
        return rows


def _drop(verdict: Verdict, mask: Mask, reason: str, values: NDArray[Any], detail: str) -> None:
    """Drop the rows of `mask` [N]; `detail` is a format for the value [N] that was too much."""
    if mask.any():
        spelt: list[str | None] = [None] * len(mask)
        for row in np.flatnonzero(mask).tolist():
            spelt[row] = detail.format(values[row])
        verdict.drop(mask, reason, spelt)


def _class_share(counts: NDArray[np.int64], which: int) -> NDArray[np.float64]:
    total = counts.sum(axis=1)
    return np.where(total >= HEURISTIC_CHARACTERS, counts[:, which] / np.maximum(total, 1), 0.0)


def _symbol_share(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of symbols; all of a text that has neither letter nor digit, however short: emoji alone say too little."""
    wordless = counts[:, [characters.SPACE, characters.SYMBOL]].sum(axis=1) == counts.sum(axis=1)
    return np.where(wordless, 1.0, _class_share(counts, characters.SYMBOL))


def _repeated_share(texts: ShardTexts) -> NDArray[np.float64]:
    lengths = np.minimum(texts.key_lengths, SAMPLE_CHARACTERS)
    long = np.flatnonzero(lengths >= REPETITION_CHARACTERS)
    shares = np.zeros(len(lengths))
    distinct = shingle_sets([texts.keys[index][:SAMPLE_CHARACTERS] for index in long]).sizes
    shares[long] = 1 - distinct / (lengths[long] + WIDTH - 1)
    return shares


def _repeated_sentences(texts: ShardTexts, repeated: NDArray[np.float64], least: float) -> NDArray[np.float64]:
    """Share in lines and sentences seen before, where it can exceed `least`: a repeated line repeats its 5-grams."""
    shares = np.zeros(len(repeated))
    for index in np.flatnonzero(repeated > 0.75 * least).tolist():
        seen: set[str] = set()
        total = again = 0
        for sentence in map(str.strip, _SENTENCE_END.split(texts.texts[index][:SAMPLE_CHARACTERS])):
            total += len(sentence)
            again += len(sentence) if sentence in seen else 0
            seen.add(sentence)
        shares[index] = again / max(total, 1)
    return shares


def _url_share(texts: ShardTexts) -> NDArray[np.float64]:
    holds = pc.match_substring_regex(pa.array(texts.texts, pa.string()), r"(?i)https?://|www\.").to_numpy(False)
    shares = np.zeros(len(texts.texts))
    for index in np.flatnonzero(holds):
        text = texts.texts[index]
        shares[index] = sum(len(match) for match in _URL.findall(text)) / len(text)
    return shares


def _boilerplate_share(texts: ShardTexts) -> NDArray[np.float64]:
    return np.where(texts.lengths >= HEURISTIC_CHARACTERS, boilerplate_shares(texts.texts), 0.0)
