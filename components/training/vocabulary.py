"""The tokenizer: learned from the corpus or read from a file, and how much each of its tokens says.

A static model adds up its tokens' rows, so tokens should be units of meaning: words and frequent word parts, split out
of CamelCase and snake_case names; for Chinese, which has no spaces, frequent strings of characters. One byte-pair
vocabulary serves both. Of the trainers in the tokenizers library only this one, without a continuation prefix, gives
the same vocabulary in every process: WordPiece's and Unigram's depend on the order of a hash table.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from components.core.errors import UsageError
from components.training.tokens import TokenStore
from components.training.words import CAMEL_CASE, NO_LETTERS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TEXTS = 1 << 16  # texts whose tokens are counted at once
_HAN = r"[\p{Han}\p{Hiragana}\p{Katakana}]"


def learn_tokenizer(texts: Iterable[str], vocab_size: int, min_frequency: int) -> Tokenizer:
    """A byte-pair tokenizer of at most ``vocab_size`` tokens, each seen ``min_frequency`` times or more.

    Text is NFKC-normalised and lower-cased; punctuation separates and is left out; runs of Chinese characters, of
    letters and of digits are cut from one another. A character that the corpus does not have gives no token.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(CAMEL_CASE), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(NO_LETTERS), "removed"),
            pre_tokenizers.Split(Regex(rf"{_HAN}+|\p{{N}}+"), "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=min_frequency, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json, or of a folder that holds one. Raises UsageError if there is none."""
    from tokenizers import Tokenizer

    file = Path(path, "tokenizer.json") if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UsageError(f"pretrain.tokenizer: {path}: no such file; allowed: train, a tokenizer.json, or its folder")
    try:
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception for every malformed file
        raise UsageError(f"pretrain.tokenizer: {file}: not a tokenizers file ({error})") from None
    tokenizer.no_padding()
    return tokenizer


def document_frequency(store: TokenStore, vocab_size: int) -> npt.NDArray[np.int64]:
    """Number of texts of the store that hold each token, int64 [V]."""
    frequency_V = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(store), _TEXTS):
        offsets = store.offsets[start : start + _TEXTS + 1]
        texts_T = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))
        pairs_U = np.unique(texts_T * vocab_size + store.tokens[offsets[0] : offsets[-1]])
        frequency_V += np.bincount(pairs_U % vocab_size, minlength=vocab_size)
    return frequency_V
