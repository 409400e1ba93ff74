"""Whole deduplication of the same documents, ours and the peers', with what each finds and what it wrongly removes."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers, sampling, texts
from benchmarks.chain import NO_CONTAMINATION, Project
from benchmarks.measure import Result, Table, interleaved, versions

THRESHOLD = 0.8
BAND = (0.80, 0.85)  # Jaccard of the planted pairs that must be found
BELOW = (0.60, 0.75)  # of planted pairs that must stay
DOCUMENTS, PLANTED, EXACT, APART = 13_000, 1600, 650, 950
REPEATS = 3
OURS, OURS_WHOLE = "embedmill", "embedmill, the whole filter step"
# What of the filter step is no deduplication: the rules, which run whether there are duplicates or not.
RULES = ("rules", "characters", "language", "mojibake", "boilerplate", "contamination", "fluency", "domains")
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "text-dedup": ("textdedup_deduplication", {"threshold": THRESHOLD, "characters": True}),
    "text-dedup, 5-grams of words": ("textdedup_deduplication", {"threshold": THRESHOLD, "characters": False}),
    "datatrove (4 stages)": ("datatrove_deduplication", {}),
}
WITHOUT_WORDS = ("zh",)  # Chinese sets no spaces: a "word" there would be a clause


@dataclass(frozen=True)
class Corpus:
    """Titled documents in shuffled order, and pairs of their numbers: planted duplicates, and pairs that are none.

    A copy has the title of its original; originals have different ones.
    """

    titles: list[str]
    documents: list[str]
    near: list[tuple[int, int]]
    exact: list[tuple[int, int]]
    apart: list[tuple[int, int]]

    @property
    def whole(self) -> list[str]:
        """Titles and documents as one text each, which is what the peers get."""
        return [f"{title}\n{text}" for title, text in zip(self.titles, self.documents, strict=True)]


def corpus(lang: str, sizes: Sequence[int] = (DOCUMENTS, PLANTED, EXACT, APART), seed: int = 1) -> Corpus:
    """Real and recombined documents with copies of some of them, one copy at most of each."""
    count, near, exact, apart = sizes
    choose = random.Random(f"deduplication {lang} {seed}")
    base = texts.documents(lang, count, seed)
    third = count // 3
    planted = texts.plant(base[:third], near, *BAND, choose)
    below = [(third + index, copy) for index, copy in texts.plant(base[third : 2 * third], apart, *BELOW, choose)]
    same = [(index, base[index]) for index in choose.sample(range(2 * third, count), exact)]
    everything = base + [copy for _, copy in (*planted, *same, *below)]
    titles = choose.sample(texts.questions(lang), count)
    titles += [titles[index] for index, _ in (*planted, *same, *below)]
    order = list(range(len(everything)))
    choose.shuffle(order)
    place = {number: position for position, number in enumerate(order)}
    pairs = [(place[index], place[count + number]) for number, (index, _) in enumerate((*planted, *same, *below))]
    shuffled = ([titles[number] for number in order], [everything[number] for number in order])
    return Corpus(*shuffled, pairs[:near], pairs[near:][:exact], pairs[near + exact :])


def run() -> Result:
    tables, values = [], {}
    for lang in ("en", "zh"):
        made = corpus(lang)
        seconds, kept, share = _measure(made, lang)
        seconds = {OURS: seconds[OURS_WHOLE] * share, **seconds}
        kept[OURS] = kept[OURS_WHOLE]
        ours = nearest(made.documents, sorted(_removed(made, kept[OURS])))
        peers_removed = {row for name in PEERS if name in kept for row in _removed(made, kept[name])}
        theirs = nearest(made.whole, sorted(peers_removed))
        rows = []
        for name, taken in seconds.items():
            quality = judge(made, kept[name], theirs if name in PEERS else ours)
            values.setdefault(lang, {})[name] = {"documents_per_second": len(made.documents) / taken, **quality}
            rows.append([name, len(made.documents) / taken, taken / seconds[OURS], *quality.values()])
        mean = sum(map(len, made.whole)) / len(made.documents)
        header = ("", "documents / CPU-s", "embedmill is faster ×", "recall, planted .80–.85", "recall, exact")
        header += ("planted .60–.75 kept", "removed", "of them with Jaccard ≥ .8")
        title = f"Deduplication, {lang}: {len(made.documents):,} documents of {mean:.0f} characters on average"
        tables.append(Table(title, header, rows))
    tables[-1].note = (
        "CPU time of one core, documents in files at the start and at the end, signatures of 128 values, 5-grams of "
        f"characters, threshold {THRESHOLD}; median of {REPEATS} interleaved runs. Documents have a title: the other "
        "side of the pair for us, the first line for the peers. Ours is the filter step, language given, contamination "
        "off: reading, normalising, signatures, bands, candidates, verification, clusters, survivors, writing. "
        "`embedmill` leaves out the share of CPU time spent in the other rules (sampled), which the step always runs. "
        "text-dedup knows words only: it gets each character set apart as a word. A removed document was rightly "
        "removed if the exact Jaccard similarity to another one (Python sets, apart from the kernel; for us of the "
        "passage alone) reaches the threshold. Neither peer verifies its candidates."
    )
    return Result("dedup", tables, values, versions(("numpy", "pyarrow")) | peers.versions("text-dedup", "datatrove"))


def _measure(made: Corpus, lang: str) -> tuple[dict[str, float], dict[str, set[int]], float]:
    """CPU seconds and surviving documents by contestant, and the share of deduplication in ours."""
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        ours = _project(Path(scratch) / "ours", made, lang)
        running: dict[str, peers.Peer] = {}
        for number, (name, (task, options)) in enumerate(PEERS.items()):
            if lang in WITHOUT_WORDS and options.get("characters") is False:
                continue
            folder = Path(scratch) / str(number)
            folder.mkdir()
            path = peers.write_texts(folder / "texts.jsonl", made.whole)
            running[name] = stack.enter_context(peers.Peer(task, path, **options))
        contestants = {
            OURS_WHOLE: lambda: ours.rerun("filter"),
            **{name: peer.measure for name, peer in running.items()},
        }
        ours.rerun("filter")  # imports
        seconds = interleaved(contestants, REPEATS)
        with sampling.sampled(_rule) as spent:
            ours.rerun("filter")
        share = spent["other"] / spent.total()
        kept = {OURS_WHOLE: _kept(ours)} | {name: set(map(int, peer.value)) for name, peer in running.items()}
        return seconds, kept, share


def _rule(frame: FrameType) -> str | None:
    """The rule that a frame belongs to; what a rule calls (shingles, to see repetition) is its own."""
    name = sampling.module(frame)
    return name if name and name.removeprefix("filter.") in RULES else None


def _kept(project: Project) -> set[int]:
    """The documents that were not dropped as duplicates."""
    output = project.dataset("filter")
    rejected = output.read_rejected().to_pylist()
    others = (json.loads(row["record"]) for row in rejected if not row["reason"].endswith("_duplicate"))
    return {int(url) for url in (*output.read()["url"].to_pylist(), *(record["url"] for record in others))}


def _project(folder: Path, made: Corpus, lang: str) -> Project:
    source = {"uri": "documents.jsonl", "task": "retri_contrast", "lang": lang}
    near = {"threshold": THRESHOLD}
    rules = {"languages": [lang], "near_duplicates": near, "contamination": NO_CONTAMINATION}
    project = Project(folder, {"ingest": {"sources": [source]}, "filter": rules})
    pairs = zip(made.titles, made.documents, strict=True)
    lines = ({"text": title, "text_pos": text, "url": str(row)} for row, (title, text) in enumerate(pairs))
    texts.write_jsonl(folder / "documents.jsonl", lines)
    project.run("sources")
    project.run("ingest")
    return project


def judge(made: Corpus, kept: set[int], similar: Mapping[int, float]) -> dict[str, Any]:
    """Recall of planted pairs (one of each must go), and how many of the removed rows were rightly removed."""
    removed = _removed(made, kept)
    right = sum(similar[row] >= THRESHOLD for row in removed)
    return {
        "recall_near": _found(made.near, kept),
        "recall_exact": _found(made.exact, kept),
        "kept_apart": 1 - _found(made.apart, kept),
        "removed": len(removed),
        "precision": right / max(len(removed), 1),
    }


def _removed(made: Corpus, kept: set[int]) -> set[int]:
    return set(range(len(made.documents))) - kept


def _found(pairs: Sequence[tuple[int, int]], kept: set[int]) -> float:
    return sum(not {one, other} <= kept for one, other in pairs) / len(pairs)


def nearest(documents: Sequence[str], rows: Sequence[int]) -> dict[int, float]:
    """For each of `rows` the exact Jaccard similarity to its most similar other document, by sparse counting."""
    from scipy.sparse import csr_array

    numbers: dict[str, int] = {}
    indices: list[int] = []
    starts = [0]
    for text in documents:
        indices += [numbers.setdefault(shingle, len(numbers)) for shingle in texts.shingles(text)]
        starts.append(len(indices))
    sizes: NDArray[np.int64] = np.diff(starts)
    shape = (len(documents), len(numbers))
    matrix = csr_array((np.ones(len(indices), np.int32), np.array(indices, np.int32), np.array(starts)), shape=shape)
    turned = matrix.T.tocsr()
    best: dict[int, float] = {}
    for row in rows:
        common = (matrix[[row]] @ turned).toarray()[0]
        similarity = common / np.maximum(sizes + sizes[row] - common, 1)
        similarity[row] = 0
        best[row] = float(similarity.max())
    return best
