"""What all parts found, in one table: each figure beside its aim and the command that makes it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks import deduplication, filters, packing, signatures, static
from benchmarks.measure import README, RESULTS, Table, read_values, replace_block, shown

Values = dict[str, Any]
Row = tuple[str, str, Callable[[Values], str], str]


def _ratios(part: Values, ours: str, theirs: str, key: str) -> str:
    return " / ".join(_ratio(part[lang], ours, theirs, key) for lang in ("en", "zh"))


def _ratio(rates: Values, ours: str, theirs: str, key: str) -> str:
    values = rates[key] if key in rates else {name: found["documents_per_second"] for name, found in rates.items()}
    return f"{shown(values[ours] / values[theirs])}×"


def _signature(theirs: str) -> Callable[[Values], str]:
    return lambda part: _ratios(part, signatures.OURS, theirs, "texts_per_second")


def _whole(theirs: str) -> Callable[[Values], str]:
    return lambda part: _ratios(part, deduplication.OURS, theirs, "")


def _quality(name: str) -> Callable[[Values], str]:
    return lambda part: " / ".join(shown(part[lang][deduplication.OURS][name]) for lang in ("en", "zh"))


def _extraction(part: Values) -> str:
    return " against ".join(shown(found["f1"]) for found in part.values())


def _growth(key: str) -> Callable[[Values], str]:
    def spelt(part: Values) -> str:
        if key == "cpu_seconds":
            found = [part["ingest"][key][at] + part["filter"][key][at] for at in range(len(part["sizes"]))]
            return " · ".join(f"{each / size * 1e6:,.0f}" for each, size in zip(found, part["sizes"], strict=True))
        return " · ".join(f"{each / 2**20:,.0f}" for each in part["filter"][key])

    return spelt


ROWS: tuple[Row, ...] = (
    ("minhash", "signatures, beside datatrove's stage (en / zh)", _signature("datatrove's signature stage"), "≥ 20×"),
    ("minhash", "signatures, beside rensa (en / zh)", _signature("rensa (R-MinHash)"), "≥ 4×"),
    ("dedup", "whole deduplication, beside text-dedup (en / zh)", _whole("text-dedup"), "≥ 8×"),
    ("dedup", "whole deduplication, beside datatrove (en / zh)", _whole("datatrove (4 stages)"), "≥ 8×"),
    ("dedup", "recall of planted pairs, Jaccard .80–.85", _quality("recall_near"), "≥ .97"),
    ("dedup", "removed rows verified at the threshold", _quality("precision"), "1"),
    ("filters", "all filters as shipped, pairs/s", lambda part: _rate(part, filters.SHIPPED), "≥ 5,000"),
    ("filters", "with every optional filter, pairs/s", lambda part: _rate(part, filters.EVERYTHING), "≥ 5,000"),
    ("score", "scoring, beside SentenceTransformer.encode", lambda part: f"{shown(part['ratio'])}×", "≥ 2×"),
    ("extraction", "word F1 of main text, against trafilatura's", _extraction, ""),
    ("growth", "ingest and filter, CPU µs a pair at 50 k · 200 k · 1 M", _growth("cpu_seconds"), "the same"),
    ("growth", "filter, peak MiB at 50 k · 200 k · 1 M", _growth("peak_bytes"), "flat"),
)


def _rate(part: Values, name: str) -> str:
    return shown(part["pairs_per_second"][name])


def _ratios_of(*keys: str) -> Callable[[Values], str]:
    """Ratios by the clock at `keys` of what the part holds."""
    return lambda part: " / ".join(f"{shown(part[key]['ratios']['wall'])}×" for key in keys)


def _step(what: str) -> Callable[[Values], str]:
    """A ratio of static training with every core, by the clock; with one, by CPU time."""

    def spelt(part: Values) -> str:
        every, one = (part["ratios"][f"{what}, {threads} threads"] for threads in (part["cores"], 1))
        return f"{shown(every['wall'])}× ({shown(one['cpu'])}×)"

    return spelt


def _apart(part: Values) -> str:
    return f"{part['apart'][static.OURS]:.0e}"


def _packing(peer: str) -> Callable[[Values], str]:
    return lambda part: f"{shown(part['seconds'][peer] / part['seconds'][packing.OURS])}×"


def _gain(part: Values) -> str:
    """Of CBB with DHNM over vanilla training, in points of the mean over all tasks."""
    both, vanilla = (statistics.mean(part[name]["means"]["all"]) for name in ("CBB + DHNM", "vanilla"))
    return f"{both - vanilla:+.2f}"


TRAINING_ROWS: tuple[Row, ...] = (
    ("parity", "largest relative difference of a loss or gradient", lambda part: f"{part['largest']:.0e}", "≤ 1e-5"),
    ("static", "static training, a step in fp32, every core (CPU time, one core)", _step("step fp32"), "≥ 4×"),
    ("static", "static training, a step in bf16", _step("step bf16"), "≥ 5×"),
    ("static", "static training, a pass with tokenising", _step("pass fp32"), "≥ 2.5×"),
    ("static", "static training, loss curve apart from the peer's", _apart, "≤ 1e-3"),
    ("encode", "encoding with a static model (en / zh)", _ratios_of("en", "zh"), "≥ 1.6×"),
    ("encoder", "a BERT 4 × 312 on a CPU, beside padded batches", _packing(packing.PADDED), "≥ 3.5×"),
    ("encoder", "… beside batches sorted by length", _packing(packing.SORTED), "≥ 1.3×"),
    ("encoder", "… beside FlagEmbedding's padded batches", _packing(packing.FLAG), ""),
    ("memory", "GradCache, memory at batch 16,384 over 1,024", lambda part: shown(part["gradcache_ratio"]), "≤ 1.2"),
    ("memory", "static training of 250,000 tokens, GiB", lambda part: shown(part["static_bytes"] / 2**30), "≤ 8"),
    ("overhead", "dynamic mining, share of a step", lambda part: f"{part['share']:.1%}", "≤ 1%"),
    ("ablation", "CBB + DHNM over vanilla at equal steps, points", _gain, ""),
)


def write() -> None:
    """Rewrite the README's table from the parts that have been measured."""
    rows = []
    for script, group in (("data.py", ROWS), ("training.py", TRAINING_ROWS)):
        for part, what, value, aim in group:
            if (RESULTS / f"{part}.json").is_file():
                rows.append([what, value(read_values(part)), aim, f"`python benchmarks/{script} {part}`"])
    table = Table("Figures, their aims and the commands that make them", ("", "measured", "aim", "command"), rows)
    replace_block(README, "summary", table.markdown())
