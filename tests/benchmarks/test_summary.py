from __future__ import annotations

from benchmarks import deduplication, filters, signatures, summary

FOUND = {
    "minhash": {
        lang: {
            "texts_per_second": {
                signatures.OURS: 100.0 * factor,
                "datatrove's signature stage": 4.0,
                "rensa (R-MinHash)": 20.0,
            }
        }
        for lang, factor in (("en", 1), ("zh", 2))
    },
    "dedup": {
        lang: {
            deduplication.OURS: {"documents_per_second": 80, "recall_near": 0.99, "precision": 1.0},
            **{name: {"documents_per_second": 8} for name in deduplication.PEERS},
        }
        for lang in ("en", "zh")
    },
    "filters": {"pairs_per_second": {filters.SHIPPED: 9000.0, filters.EVERYTHING: 6000.0}},
    "score": {"ratio": 2.5},
    "extraction": {"embedmill": {"f1": 0.9}, "trafilatura": {"f1": 0.8}},
    "growth": {
        "sizes": [10, 100],
        "ingest": {"cpu_seconds": [0.001, 0.002]},
        "filter": {"cpu_seconds": [0.001, 0.008], "peak_bytes": [2**20, 2**21]},
    },
}


def test_figures_are_ours_over_theirs() -> None:
    figures = {what: value(FOUND[part]) for part, what, value, _ in summary.ROWS}
    assert list(figures.values()) == [
        *("25× / 50×", "5× / 10×", "10× / 10×", "10× / 10×", "0.990 / 0.990", "1 / 1"),
        *("9,000", "6,000", "2.5×", "0.900 against 0.800", "200 · 100", "1 · 2"),
    ]
