"""What is known about the rows of one shard before rows of different shards meet; kept so that a rerun goes on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from components.core import storage
from components.filter import classification, contamination, domains, duplicates, fluency, language, rules
from components.filter.characters import class_counts
from components.filter.classification import SCORE, Scores
from components.filter.contamination import Reference
from components.filter.minhash import band_hashes, cut, mix, signatures
from components.filter.normalise import clean_table
from components.filter.params import FilterParams
from components.filter.texts import SAMPLE_CHARACTERS, ShardTexts
from components.filter.verdict import Mask, Verdict

Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class Judgement:
    """Rows [N] of one shard: verdict of the row rules, language, and what deduplication and contamination need.

    `bands` [B, N] are zero for rows that the rules dropped. `contaminated` [N] holds CLEAN, EXACT or NEAR and
    `evidence` [N] the text of the suite that was met; they count only for rows that survive deduplication. `scores`
    are those of each classifier, NaN where it did not judge.
    """

    ids: Ids
    sources: list[str]
    verdict: Verdict
    languages: list[str]
    kinds: Ids
    ranks: Ids
    symmetric: Mask
    left: Ids
    right: Ids
    bands: Ids
    contaminated: NDArray[np.uint8]
    evidence: list[str | None]
    scores: dict[str, Scores]

    def to_bytes(self) -> bytes:
        """As an Arrow file."""
        columns = {
            "id": pa.array(self.ids),
            "source": pa.array(self.sources, pa.string()),
            "code": pa.array(self.verdict.codes),
            "detail": pa.array(self.verdict.details, pa.string()),
            "lang": pa.array(self.languages, pa.string()),
            "kind": pa.array(self.kinds),
            "rank": pa.array(self.ranks),
            "symmetric": pa.array(self.symmetric),
            "left": pa.array(self.left),
            "right": pa.array(self.right),
            "contaminated": pa.array(self.contaminated),
            "evidence": pa.array(self.evidence, pa.string()),
        }
        columns |= {f"band_{band}": pa.array(hashes) for band, hashes in enumerate(self.bands)}
        columns |= {f"{SCORE}{name}": pa.array(scores) for name, scores in self.scores.items()}
        table = pa.table(columns)
        buffer = io.BytesIO()
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        return buffer.getvalue()


def read_judgement(uri: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a judgement that was written as `to_bytes` says; `bands` and `scores` stand for all of them."""
    with storage.open_read(uri) as file:
        names = pa.ipc.open_file(pa.PythonFile(file)).schema.names
        groups = tuple(prefix for group, prefix in (("bands", "band_"), ("scores", SCORE)) if group in columns)
        wanted = [n for n, name in enumerate(names) if name in columns or name.startswith(groups)]
        file.seek(0)
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        return pa.ipc.open_file(pa.PythonFile(file), options=options).read_all()


def judge(
    table: pa.Table, params: FilterParams, reference: Reference, fluent: fluency.Judge | None = None
) -> Judgement:
    """Judge the records of one shard: a pure function of its arguments (files that `params` names have digests)."""
    table = clean_table(table)
    texts = ShardTexts.of(table)
    counts = class_counts(texts.texts)
    tasks = np.array(table["task"].to_pylist(), object)
    verdict = Verdict.keep_all(len(table), tuple(params.classifiers))
    rules.judge_presence(texts, verdict)
    given = table["lang"].to_pylist()
    languages = language.row_languages(texts, counts, given, params.languages, params.language_confidence)
    verdict.drop(language.refused(languages, params.languages), "language", languages)
    rules.judge_length(texts, tasks, languages, params, verdict)
    rules.judge_heuristics(texts, counts, tasks, languages, params, verdict)
    rules.judge_pairs(texts, tasks, params, verdict)

    if params.blocked_domains:
        blocked, names = domains.read_blocked(params.blocked_domains).rows(table["url"])
        verdict.drop(blocked, "blocked_domain", names)
    scores = classification.judge(texts, tasks, languages, params.safety, verdict)
    if fluent is not None:
        fluent.judge(texts, counts, tasks, verdict)
    scores |= classification.judge(texts, tasks, languages, params.quality, verdict)

    among, unit = _texts_of(texts, verdict.kept), params.near_duplicates.shingles
    signature = signatures([texts.keys[index][:SAMPLE_CHARACTERS] for index in among], unit)
    near = params.contamination.near
    status, match = contamination.contaminated_texts(texts, among, signature, reference, near, unit)
    contaminated, evidence = _contaminated_rows(texts, tasks, status, match, reference)
    return Judgement(
        ids=table["id"].to_numpy(),
        sources=table["source"].to_pylist(),
        verdict=verdict,
        languages=languages,
        kinds=duplicates.row_kinds(table),
        ranks=duplicates.row_ranks(table),
        symmetric=np.equal(tasks, "cosent"),
        left=texts.key_ids[texts.left],
        right=texts.key_ids[texts.right],
        bands=_pair_bands(texts, among, signature, verdict.kept, params.near_duplicates.threshold),
        contaminated=contaminated,
        evidence=evidence,
        scores=scores,
    )


def _texts_of(texts: ShardTexts, rows: Mask) -> NDArray[np.int64]:
    """The distinct texts that these rows use, sorted."""
    used = (texts.left[rows], texts.right[rows], texts.negative[rows[texts.negative_row]])
    return np.unique(np.concatenate(used))


def _pair_bands(
    texts: ShardTexts, among: NDArray[np.int64], signature: NDArray[np.uint32], rows: Mask, threshold: float | None
) -> Ids:
    """Band hashes over both sides of each row, uint64 [B, N]; B is 0 when near-duplicates stay."""
    if threshold is None:
        return np.empty((0, len(rows)), np.uint64)
    sides = band_hashes(signature, cut(threshold, sides=2))
    result = np.zeros((len(sides), len(rows)), np.uint64)
    kept = np.flatnonzero(rows)
    left, right = np.searchsorted(among, texts.left[kept]), np.searchsorted(among, texts.right[kept])
    result[:, kept] = mix(sides[:, left]) + sides[:, right]
    return result


def _contaminated_rows(
    texts: ShardTexts,
    tasks: NDArray[np.object_],
    status: NDArray[np.uint8],
    match: NDArray[np.int64],
    reference: Reference,
) -> tuple[NDArray[np.uint8], list[str | None]]:
    """Rows [N] by their worst text: both sides and the negatives, except the label texts of cls_contrast."""
    is_label = np.equal(tasks, "cls_contrast")
    rows = np.arange(len(tasks))
    owner = np.concatenate([rows, rows[~is_label], texts.negative_row[~is_label[texts.negative_row]]])
    used = np.concatenate([texts.left, texts.right[~is_label], texts.negative[~is_label[texts.negative_row]]])
    result = np.zeros(len(tasks), np.uint8)
    evidence: list[str | None] = [None] * len(tasks)
    for level in (contamination.NEAR, contamination.EXACT):  # an equal text is the stronger evidence
        for row, text in zip(owner[status[used] == level].tolist(), used[status[used] == level].tolist(), strict=True):
            result[row], evidence[row] = level, reference.keys[match[text]][:80]
    return result, evidence
