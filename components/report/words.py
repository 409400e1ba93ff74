"""Numbers and names as people read them."""

from __future__ import annotations

import unicodedata

SYSTEMS = {
    "bm25": "BM25",
    "tfidf": "TF-IDF",
    "bm25_identifiers": "BM25 with identifiers",
    "pretrained": "pretrained only",
}
METRICS = {"ndcg": "nDCG", "mrr": "MRR", "map": "MAP", "recall": "Recall", "spearman": "Spearman \u00d7 100"}


def count(number: float) -> str:
    """A whole number with its thousands set apart."""
    return f"{number:,.0f}"


def brief_count(number: float) -> str:
    """A count in millions where it has seven digits or more, for places with little room."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else count(number)


def share(part: float, whole: float) -> str:
    """A percentage; one that is not zero never reads as zero, nor one below the whole as the whole."""
    if not whole:
        return "\u2013"
    percentage = 100 * part / whole
    if 0 < percentage < 0.05:
        return "<0.1 %"
    if 99.95 <= percentage < 100:
        return ">99.9 %"
    return f"{percentage:.1f} %"


def humanise(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ")


def system_name(system: str) -> str:
    """A measured system as people call it."""
    return SYSTEMS.get(system, system)


def columns_of(text: str) -> int:
    """The columns that a text takes where a Latin letter takes one and a Chinese character two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def metric_name(metric: str) -> str:
    """`ndcg_at_10` as nDCG@10."""
    kind, at, depth = metric.partition("_at_")
    return METRICS.get(kind, humanise(kind)) + ("@" if at else "") + depth


def size(number: int) -> str:
    """A number of bytes, in KiB where that is a whole or large number."""
    if number < 1024:
        return f"{number} B"
    return f"{number / 1024:.1f}".removesuffix(".0") + " KiB"


def difference(number: float) -> str:
    """A signed difference with one decimal and a real minus sign."""
    return f"{number:+.1f}".replace("-", "\u2212")
