"""MinHash signatures of the same texts: 128 values, character 5-grams, one core."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import peers, texts
from benchmarks.measure import Result, Table, cpu_seconds, interleaved, versions
from components.core.textnorm import normalise_keys
from components.filter.minhash import signatures

TEXTS = 4000
REPEATS = 5
OURS, OURS_NORMALISED = "embedmill", "embedmill, normalising first"
PEERS = {
    "datatrove's signature stage": ("datatrove_signatures", {"normalise": False}),
    "datatrove's signature stage, normalising first": ("datatrove_signatures", {"normalise": True}),
    "rensa (R-MinHash)": ("rensa_signatures", {}),
    "rensa (rho: samples the shingles)": ("rensa_signatures", {"rho": True}),
    "datasketch": ("datasketch_signatures", {}),
    "gaoya (with insertion)": ("gaoya_signatures", {}),
}
NORMALISING = ("datatrove's signature stage, normalising first",)


def run() -> Result:
    tables, values = [], {}
    for lang in ("en", "zh"):
        sample = texts.documents(lang, TEXTS, seed=1)
        seconds = _measure(sample)
        rates = {name: len(sample) / taken for name, taken in seconds.items()}
        mean = sum(map(len, sample)) / len(sample)
        rows = []
        for name in (OURS, OURS_NORMALISED, *PEERS):
            ours = OURS_NORMALISED if name in NORMALISING else OURS
            rows.append([name, rates[name], None if name in (OURS, OURS_NORMALISED) else rates[ours] / rates[name]])
        title = f"MinHash signatures, {lang}: {len(sample):,} texts of {mean:.0f} characters on average"
        tables.append(Table(title, ("", "texts / CPU-s", "embedmill is faster ×"), rows))
        values[lang] = {"mean_characters": mean, "texts_per_second": rates}
    tables[-1].note = (
        "From texts in memory to 128 values each, shingling included. What normalises first is held against our rate "
        "with our normalisation, the rest, on texts normalised beforehand, against the kernel. Median of "
        f"{REPEATS} interleaved runs. rensa's rho looks at a sample of the shingles, so it estimates another "
        "similarity; gaoya's binding has no signatures without an index: its figure holds the insertion into 16 bands."
    )
    return Result("minhash", tables, values, versions(("numpy",)) | peers.versions(*peers.DATA.packages[:4]))


def _measure(sample: list[str]) -> dict[str, float]:
    keys = normalise_keys(sample)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        contestants = {
            OURS: lambda: cpu_seconds(lambda: signatures(keys))[0],
            OURS_NORMALISED: lambda: cpu_seconds(lambda: signatures(normalise_keys(sample)))[0],
        }
        for number, (name, (task, options)) in enumerate(PEERS.items()):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            # the peers that do not normalise get the same normalised texts as our kernel
            path = peers.write_texts(folder / "texts.jsonl", sample if name in NORMALISING else keys)
            contestants[name] = stack.enter_context(peers.Peer(task, path, **options)).measure
        interleaved(contestants, 1)  # warm up: imports, caches, compiled kernels
        return interleaved(contestants, REPEATS)
