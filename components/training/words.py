"""Tokens of texts by way of their words: a word is tokenised once, however often texts repeat it.

Tokenising takes most of the time that static embeddings need, and nearly all of it is spent on words seen before. Where
a tokenizer cuts at spaces and nothing that it does looks across one, a text's tokens are those of its words laid end to
end, so they can be looked up. Whether that holds is read off the tokenizer's own parts; any other is asked directly.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CAMEL_CASE = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
NO_LETTERS = r"[^\p{L}\p{N}\p{M}]+"

_KEPT = 2**17  # words remembered at most: frequent ones come back soon after all are forgotten
_TOGETHER = 64  # new words handed over as one text, which costs less than one by one
_MARK = "\ue000\uf8ff"  # stands between them: two private characters, a special token of our copy of the tokenizer
# Unicode's compositions and case rules never reach across a space, nor do these patterns match on both of its sides.
_LOCAL_NORMALIZERS = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "StripAccents"}
_CUT_AT_SPACES = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
# BERT's normalizer sets each of these ideographs between spaces, and no normalizer changes them.
_IDEOGRAPH_OR_WORD = re.compile("[\u4e00-\u9fff]|[^ \u4e00-\u9fff]+")
_CUT_FURTHER = {"Digits", "Punctuation", "Split", "UnicodeScripts"}

Tokens = npt.NDArray[np.int32]
Lengths = npt.NDArray[np.int64]


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str], special: bool) -> tuple[Tokens, Lengths]:
    """Tokens of ``texts`` laid end to end, int32, and how many each text has, int64; as the tokenizer cuts them."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=special)]
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.fromiter(itertools.chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths


class Words:
    """A tokenizer without special tokens that remembers words: exactly its tokens, sooner."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises nothing: a tokenizer whose words do not stand alone is asked for whole texts."""
        self._tokenizer = tokenizer
        settings = json.loads(tokenizer.to_str())
        truncation = settings["truncation"] or {"max_length": None, "direction": "Right"}
        self._limit = truncation["max_length"]
        self.remembers = settings["padding"] is None and truncation["direction"] == "Right" and stand_alone(settings)
        normalizers = _parts(settings["normalizer"], "normalizers")
        self._ideographs = any(part.get("handle_chinese_chars") for part in normalizers)
        if self.remembers:
            self._marking = type(tokenizer).from_str(tokenizer.to_str())
            self._marking.no_truncation()
            self._whole = type(tokenizer).from_str(self._marking.to_str())
            self._marking.add_special_tokens([_MARK])
        self._forget()

    def _forget(self) -> None:
        self._numbers = _Numbers()
        self._tokens: Tokens = np.zeros(0, dtype=np.int32)
        self._starts: Lengths = np.zeros(0, dtype=np.int64)
        self._lengths: Lengths = np.zeros(0, dtype=np.int64)

    @property
    def remembered(self) -> int:
        """Number of words remembered."""
        return len(self._numbers)

    def tokenise(self, texts: Sequence[str]) -> tuple[Tokens, Lengths]:
        """Tokens of ``texts`` laid end to end, and how many each text has."""
        if not self.remembers:
            return encode_texts(self._tokenizer, texts, special=False)
        words: list[str] = []
        counts = np.empty(len(texts), dtype=np.int64)
        for index, text in enumerate(texts):
            parts = _IDEOGRAPH_OR_WORD.findall(text) if self._ideographs and not text.isascii() else text.split(" ")
            words += parts
            counts[index] = len(parts)
        if len(self._numbers) > _KEPT:
            self._forget()
        number_W = np.fromiter(map(self._numbers.__getitem__, words), np.int64, len(words))
        self._learn()
        lengths_W = self._lengths[number_W]
        ends_W = np.concatenate([np.zeros(1, dtype=np.int64), lengths_W.cumsum()])
        lengths = np.diff(ends_W[np.concatenate([np.zeros(1, dtype=np.int64), counts.cumsum()])])
        shift_W = self._starts[number_W] - ends_W[:-1]
        tokens = self._tokens[np.arange(ends_W[-1], dtype=np.int64) + np.repeat(shift_W, lengths_W)]
        if self._limit is None or (len(lengths) and lengths.max() <= self._limit):
            return tokens, lengths
        return _cut(tokens, lengths, self._limit)

    def _learn(self) -> None:
        """Tokenise the words that were seen for the first time."""
        if not self._numbers.new:
            return
        tokens, lengths = self._ask_together(self._numbers.new)
        starts = len(self._tokens) + lengths.cumsum() - lengths
        self._tokens = np.concatenate([self._tokens, tokens])
        self._starts = np.concatenate([self._starts, starts])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._numbers.new = []

    def _ask_together(self, words: list[str]) -> tuple[Tokens, Lengths]:
        """Tokens of words [W] laid end to end, and how many each word has."""
        texts = [_MARK.join([*words[start : start + _TOGETHER], ""]) for start in range(0, len(words), _TOGETHER)]
        tokens, _ = encode_texts(self._marking, texts, special=False)
        marks = np.flatnonzero(tokens == self._marking.token_to_id(_MARK))
        if len(marks) != len(words):  # a word holds the mark itself
            return encode_texts(self._whole, words, special=False)
        return np.delete(tokens, marks), np.diff(marks, prepend=-1) - 1


class _Numbers(dict[str, int]):
    """Words by number, in order of their first appearance; ``new`` are those that nobody has tokenised yet."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        self.new.append(word)
        return number


def stand_alone(settings: dict[str, Any]) -> bool:
    """Whether the tokens of a text are those of its words: from the settings of a tokenizer.json."""
    normalizers = _parts(settings["normalizer"], "normalizers")
    first, *others = [*_parts(settings["pre_tokenizer"], "pretokenizers"), None]
    return (
        all(_is_local(part) for part in normalizers)
        and first is not None
        and (first["type"] in _CUT_AT_SPACES or _drops_all_but_letters(first))
        and all(part is None or part["type"] in _CUT_FURTHER | _CUT_AT_SPACES for part in others)
        and not any(" " in token["content"] or token["lstrip"] or token["rstrip"] for token in settings["added_tokens"])
    )


def _parts(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return [deep for each in part[inner] for deep in _parts(each, inner)] if part["type"] == "Sequence" else [part]


def _is_local(normalizer: dict[str, Any]) -> bool:
    if normalizer["type"] == "Replace":
        return bool(normalizer["pattern"] == {"Regex": CAMEL_CASE})
    return str(normalizer["type"]) in _LOCAL_NORMALIZERS


def _drops_all_but_letters(cut: dict[str, Any]) -> bool:
    return bool(cut["type"] == "Split" and cut["pattern"] == {"Regex": NO_LETTERS} and cut["behavior"] == "Removed")


def _cut(tokens: Tokens, lengths: Lengths, limit: int) -> tuple[Tokens, Lengths]:
    """The first ``limit`` tokens of each text."""
    starts = lengths.cumsum() - lengths
    within = np.arange(len(tokens), dtype=np.int64) - np.repeat(starts, lengths)
    return tokens[within < limit], np.minimum(lengths, limit)
