"""Text decoded with a wrong encoding: what share of its characters are the traces of that.

Four kinds, each told by what a writer would not put down:

- U+FFFD, which cleaning puts for UTF-8 read as Latin-1 controls too, and the 锟斤拷 that two of them become when read
  as GBK; the 烫 and 屯 of uninitialised memory;
- UTF-8 read as Latin-1 or Windows-1252, once or twice: a byte that starts a character, then one that continues it
  (Ã©, â€™), or a run of nothing but such bytes (ä½ å¥½);
- GBK read as Latin-1 or Windows-1252: a run of nothing but upper bytes (ÄãºÃ), or its quotation marks (¡¯);
- UTF-8 read as GBK: rare ideographs (浣犲ソ) whose GBK bytes are UTF-8 of others, which is proved by decoding;
  in Latin text, ideographs inside words (caf茅) whose GBK bytes are UTF-8 of accented letters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Bytes 80–BF as Windows-1252 and as Latin-1 show them. Cleaning has replaced or removed the controls among them and
# made U+00A0 a space, so no pattern may count on a character being complete.
_WINDOWS = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_CONTINUES = f"\u00a0-\u00bf{_WINDOWS}"
_LOST = "\ufffd+|(?:锟斤拷)+|锟斤|斤拷|烫烫烫|屯屯屯"
# ã and ï open Japanese and full-width characters; é before a closing quotation mark is French
_ONE = f"[ÃÂ][{_CONTINUES}]+|â[€‚ƒ„][{_CONTINUES}]?|ã[€‚ƒ][{_CONTINUES}]?|ï[»¼½¾¿][{_CONTINUES}]?"
_QUOTES = "¡[¢£¤ª®¯°±]|¨[¢¦¨¬²³¹º]|£[¡¬»¿]"
_RUN = f"[\u00a1-\u00ff{_WINDOWS}]{{4,}}"
# The first two bytes of ’ 。 ， in UTF-8, and of all punctuation beside them, as GBK; no text holds these ideographs
_AS_GBK = "[鈥銆锛][㑻\u4e00-\u9fff\ue000-\uf8ff?]?"
_LETTERS = re.compile("[À-ÖØ-öø-ÿ]")
_MARKS = re.compile(f"{_LOST}|{_AS_GBK}|{_RUN}|{_ONE}|{_QUOTES}")


def _gbk(leads: range) -> str:
    """GBK characters of these first bytes and a second one that continues a character in UTF-8."""
    codes = (bytes([lead, trail]) for lead in leads for trail in range(0x80, 0xC0))
    return "".join(code.decode("gbk", "ignore") for code in codes)


_NOT_GBK = re.compile(r"[\x00-\x7f\ufffd]+")
_ACCENTED = _gbk(range(0xC2, 0xC4))
_IN_WORD = re.compile(f"[A-Za-z][{_ACCENTED}]")
_ASCII_LETTER = re.compile("[A-Za-z]")
_IDEOGRAPH = re.compile("[\u4e00-\u9fff]")
# RE2 finds the few texts worth a look; ideographs of UTF-8 begin with E3–E9
_SUSPECT = f"{_MARKS.pattern}|[{_gbk(range(0xE3, 0xEA))}]|{_IN_WORD.pattern}"


def mojibake_shares(texts: Sequence[str]) -> NDArray[np.float64]:
    """Share of the characters of each cleaned text that come from a wrong encoding, float64 [N]."""
    suspect = pc.match_substring_regex(pa.array(texts, pa.string()), _SUSPECT).to_numpy(False)
    shares = np.zeros(len(texts))
    for index in np.flatnonzero(suspect).tolist():
        text = texts[index]
        shares[index] = max(_marked(text), _utf8_as_gbk(text), _accents_as_gbk(text)) / len(text)
    return shares


def _marked(text: str) -> int:
    return sum(len(match) for match in _MARKS.findall(text) if len(match) < 4 or _is_trace(match))


def _is_trace(match: str) -> bool:
    """Whether a long match is one: a run of dashes, quotation marks or degree signs has no letters."""
    return match[0] in "\ufffd锟烫屯" or len(_LETTERS.findall(match)) >= 2


def _utf8_as_gbk(text: str) -> float:
    """Characters of a text that is, for the most part, UTF-8 read as GBK: one for each two of its bytes."""
    data = _NOT_GBK.sub("", text).encode("gb18030", "replace")
    meant = sum(character > "\u07ff" for character in data.decode("utf-8", "ignore"))
    return min(1.5 * meant, len(text)) if meant >= 2 and 3 * meant > len(data) / 2 else 0


def _accents_as_gbk(text: str) -> int:
    """Ideographs in the words of a text of Latin letters, if it has no others."""
    found = _IDEOGRAPH.findall(text)
    if 5 * len(found) > len(text) or not all(each in _ACCENTED for each in found):
        return 0
    latin = 4 * len(found) < len(_ASCII_LETTER.findall(text))
    return len(_IN_WORD.findall(text)) if latin else 0
