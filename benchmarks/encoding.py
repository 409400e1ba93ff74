"""Encoding short texts with a static model beside `SentenceTransformer.encode` at the settings that suit it best."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import static, texts
from benchmarks.measure import Result, Table, Taken, in_turns, progress, timed, versions
from components.training.bags import BATCH_TEXTS

COUNT, DIMS, REPEATS = 100_000, 1024, 3
BATCHES = (32, 256, 1024, 4096)  # texts a batch, of which the peer gets the best
OURS, PEER = "embedmill", "sentence-transformers"
AIM = 1.6


@dataclass(frozen=True)
class Shape:
    """How large the task is; the tests take a small one."""

    count: int = COUNT
    dims: int = DIMS
    repeats: int = REPEATS


def run() -> Result:
    return measure(Shape())


def short_texts(lang: str, count: int) -> list[str]:
    """Distinct short texts: what people ask and write, then sentences, then questions with a sentence's first words."""
    choose = random.Random(f"encoding {lang}")
    asked, sentences = texts.questions(lang), texts.sentences(lang)
    found = dict.fromkeys([*asked, *(sentence for sentence in sentences if len(sentence) <= 120)])
    joint = "" if lang == "zh" else " "
    while len(found) < count:
        start = choose.choice(sentences)[:12] if lang == "zh" else " ".join(choose.choice(sentences).split()[:4])
        found[f"{choose.choice(asked)}{joint}{start}"] = None
    shuffled = list(found)
    choose.shuffle(shuffled)
    return shuffled[:count]


def measure(shape: Shape) -> Result:
    """Texts a second for each language, the largest difference of a vector, and what tokenising alone takes."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    reader = static.tokenizer()
    table_VD = static.table(reader.get_vocab_size(), shape.dims)
    peer = SentenceTransformer(modules=[StaticEmbedding(reader, embedding_weights=table_VD)], device="cpu")
    rows, values = [], {}
    with tempfile.TemporaryDirectory() as folder:
        peer.save(folder, create_model_card=False)
        for lang in ("en", "zh"):
            progress(f"encode: {lang}")
            found = values[lang] = _language(peer, Path(folder), short_texts(lang, shape.count), shape.repeats)
            rows += [[f"{lang}, {name}", *found[name]] for name in (OURS, PEER)]
    header = ("", "texts / s", "texts / CPU-s", "embedmill is faster ×", "less CPU time ×", "of it tokenising")
    note = (
        f"{shape.count:,} distinct texts of {values['en']['characters']:.0f} (en) and "
        f"{values['zh']['characters']:.0f} (zh) characters on average, WordPiece with "
        f"{reader.get_vocab_size():,} tokens × {shape.dims} dimensions, unit vectors, {cores} cores, the tokenizer's "
        f"threads on. The peer has the best of batches of {', '.join(f'{size:,}' for size in BATCHES)} "
        f"({values['en']['best_batch']:,} in en, {values['zh']['best_batch']:,} in zh). Ours starts without a word "
        f"remembered. What limits: tokenising, in the last column, then reading rows of the table. Largest difference "
        f"of a value: {max(found['apart'] for found in values.values()):.1e}. Medians of {shape.repeats} interleaved "
        "runs."
    )
    table = Table("Encoding short texts", header, rows, note)
    return Result("encode", [table], values, versions(("torch", "sentence-transformers")))


def _language(peer: Any, folder: Path, some: Sequence[str], repeats: int) -> dict[str, Any]:
    from components.training.encoder import open_encoder
    from components.training.words import Words

    few = some[: max(1, len(some) // 10)]
    trials = {size: timed(partial(_theirs, peer, few, size)).wall for size in (BATCHES[0], *BATCHES)}
    best = min(trials, key=trials.__getitem__)

    def cold() -> Taken:
        encoder = open_encoder(str(folder))  # which remembers no word yet
        return timed(lambda: encoder.encode(some))

    def preprocess() -> None:
        for start in range(0, len(some), best):
            peer.preprocess(some[start : start + best])

    taken = in_turns(
        {
            OURS: cold,
            PEER: lambda: timed(lambda: _theirs(peer, some, best)),
            "our tokens": lambda: timed(lambda: _tokens(Words(static.tokenizer()), some)),
            "their tokens": lambda: timed(preprocess),
        },
        repeats,
    )
    ours, theirs = taken[OURS], taken[PEER]
    ratios = {"wall": theirs.wall / ours.wall, "cpu": theirs.cpu / ours.cpu}
    shares = taken["our tokens"].cpu / ours.cpu, taken["their tokens"].cpu / theirs.cpu
    return {
        "ratios": ratios,
        "apart": float(np.abs(open_encoder(str(folder)).encode(few) - _theirs(peer, few, best)).max()),
        "best_batch": best,
        "characters": float(np.mean([len(text) for text in some])),
        OURS: [len(some) / ours.wall, len(some) / ours.cpu, 1, 1, shares[0]],
        PEER: [
            len(some) / theirs.wall,
            len(some) / theirs.cpu,
            *ratios.values(),
            taken["their tokens"].cpu / theirs.cpu,
        ],
    }


def _theirs(model: Any, some: Sequence[str], batch: int) -> Any:
    return model.encode(list(some), batch_size=batch, normalize_embeddings=True, show_progress_bar=False)


def _tokens(words: Any, some: Sequence[str]) -> None:
    for start in range(0, len(some), BATCH_TEXTS):
        words.tokenise(some[start : start + BATCH_TEXTS])
