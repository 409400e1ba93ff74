"""The filter step: judge every shard by itself, let rows of all shards meet, then write what is left.

Files of finished tasks wait under `_phases/` inside the output until the dataset is committed, named by what they
depend on, so that a killed step goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from components.core import storage
from components.core.build import ShardOutput, ShardTask, build_ahead, build_dataset, find_or_make, open_finished
from components.core.crew import Crew
from components.core.errors import InputError
from components.core.execute import end_if_orphaned
from components.core.fingerprint import code_digest, digest_json
from components.core.ledger import Ledger
from components.core.manifest import Dataset
from components.core.records import SCHEMA, reject_records
from components.core.step import Context
from components.core.suite import EvaluateParams, load_suite, suite_texts
from components.filter import classification, contamination, fluency, funnel, shuffle_plan
from components.filter.classification import SCORE
from components.filter.contamination import Reference
from components.filter.domains import read_blocked
from components.filter.duplicate_shuffle import find_exact, find_near
from components.filter.fluency import Trigrams, sample
from components.filter.judgement import judge, read_judgement
from components.filter.normalise import clean_table
from components.filter.params import FilterParams
from components.filter.reasons import CODES, REASONS
from components.filter.semantic_shuffle import find_semantic, partition_count
from components.filter.shuffle import ROW_BITS, ROW_MASK, Shuffle
from components.filter.verdict import Verdict

if TYPE_CHECKING:
    from components.training.encoder import Encoder

PHASES = "_phases"


def run(context: Context) -> None:
    """Filter `ingest` into `output`, or do a part of a stage ahead of that.

    Raises InputError if there is nothing to filter or nothing left.
    """
    params = context.section(FilterParams)
    ingest = Dataset.open(context.inputs["ingest"])
    if not ingest.rows:
        raise InputError(f"{ingest.uri}: no rows to filter")
    classification.check((*params.safety, *params.quality))
    read_blocked(params.blocked_domains)
    model = _semantic_model(params)
    fingerprint = digest_json(
        [
            params.model_dump(mode="json", exclude={"task_memory"}),
            code_digest("components.core", "components.filter"),
            model and [model.digest, _vector_code()],
        ]
    )
    reference = _reference(context, params)
    near = params.near_duplicates
    budget = params.task_memory << 20
    plan = shuffle_plan.plan(ingest.rows, len(ingest.shards), near.threshold, budget)
    # the model of fluency is counted from the whole corpus
    judged = digest_json([fingerprint, reference.digest, ingest.digest if params.fluency else None])
    shuffle = Shuffle(
        area=storage.join(context.outputs["output"], PHASES),
        fingerprint=digest_json([judged, ingest.digest, plan.as_dict()]),
        judge_fingerprint=judged,
        ingest_uri=ingest.uri,
        ingest_digest=ingest.digest,
        plan=plan,
        near=near,
        semantic_partitions=partition_count(model.dims, ingest.rows, budget) if model else 0,
    )
    made_from = digest_json([judged, ingest.digest])
    finished = partial(
        open_finished, context.outputs["output"], "filter", fingerprint, made_from, workers=context.workers
    )
    make = partial(_filter, context, params, shuffle, reference, model, fingerprint, made_from)
    output = find_or_make(finished, make)
    if output is None:
        return
    storage.remove_tree(shuffle.area)
    if not context.part:
        storage.write_bytes(context.outputs["funnel"], funnel.funnel_csv(output.ledger, params))
        _check_sources(context, ingest, output.ledger, (*REASONS, *params.classifiers))


def _filter(
    context: Context,
    params: FilterParams,
    shuffle: Shuffle,
    reference: Reference,
    model: Encoder | None,
    fingerprint: str,
    made_from: str,
) -> Dataset | None:
    """All phases, then the shards; a part of a stage goes as far as its stage, and commits nothing.

    What earlier stages should have done costs a stage a look at each phase, and is done where it is missing.
    """
    part = context.part
    stage, signs = (part.stage, f"{part.stage}-{part.count}") if part else (None, "")
    with Crew(context.workers, context.progress, part, storage.join(shuffle.phase("signs"), signs)) as crew:
        fluency_uri = _count_fluency(params, shuffle, crew) if params.fluency else None
        _judge_shards(params, shuffle, reference, fluency_uri, crew, wait=stage != "judge")
        if stage == "judge":
            return None
        find_exact(shuffle, crew)
        if stage == "exact":
            return None
        if shuffle.near.threshold is not None:
            find_near(shuffle, crew)
        if model:
            find_semantic(shuffle, params.semantic_duplicates, model, crew)
        if stage == "near":
            return None
        shuffle.run("settled", _settle_group, shuffle.plan.groups, crew, wait=not part)
    groups = part.own(range(shuffle.plan.groups)) if part else range(shuffle.plan.groups)
    tasks = [
        ShardTask(shuffle.shards[number].name, digest_json([shuffle.shards[number].sha256, digest]), number)
        for group in groups
        for number, digest in zip(shuffle.plan.shards_of(group), _settled(shuffle, group), strict=True)
    ]
    progress = context.progress("write", len(tasks), "shards")
    work = partial(_write_shard, shuffle=shuffle, params=params)
    given = (context.outputs["output"], "filter", tasks, work, fingerprint, context.workers, progress)
    if not part:
        return build_dataset(*given, made_from=made_from)
    build_ahead(*given)
    return None


def _semantic_model(params: FilterParams) -> Encoder | None:
    """The model of semantic deduplication, opened before any work is done; None without it."""
    if params.semantic_duplicates.model is None:
        return None
    from components.training.encoder import open_encoder

    return open_encoder(params.semantic_duplicates.model)


def _vector_code() -> str:
    from components.training.vectors import code_version

    return code_version()


def _reference(context: Context, params: FilterParams) -> Reference:
    if not params.contamination.exact:
        return Reference.of((), None)
    tasks = load_suite(context.section(EvaluateParams).suite, context.inputs["heldout"])
    return Reference.of(suite_texts(tasks), params.contamination.near, params.near_duplicates.shingles)


def _count_fluency(params: FilterParams, shuffle: Shuffle, crew: Crew) -> str:
    """Count the trigrams of a sample of the corpus, once; returns where they are."""
    assert params.fluency is not None
    uri = storage.join(shuffle.area, "fluency", f"{shuffle.judge_fingerprint[:16]}.arrow")
    if not storage.exists(uri):
        share = params.fluency.sample_texts / (2 * sum(shard.rows for shard in shuffle.shards))
        shuffle.run("sample", partial(_sample_group, share=share), shuffle.plan.groups, crew)
        crew.finish("trigrams", partial(_add_samples, shuffle, share, uri), [uri])
    return uri


def _sample_group(shuffle: Shuffle, group: int, share: float) -> None:
    columns = ["text", "text_pos", "text_pair"]
    shards = [shuffle.shards[number] for number in shuffle.plan.shards_of(group)]
    found = [sample(shuffle.ingest.read_shard(shard, columns), share) for shard in shards]
    end_if_orphaned()
    storage.write_bytes(shuffle.place("sample", group), fluency.encode_samples(found))


def _add_samples(shuffle: Shuffle, share: float, uri: str, number: int) -> None:
    model = Trigrams(share)
    for place in shuffle.places("sample", shuffle.plan.groups):
        for found in fluency.decode_samples(storage.read_bytes(place)):
            model.add(found)
    end_if_orphaned()
    storage.write_bytes(uri, model.to_bytes())


def _judge_shards(
    params: FilterParams, shuffle: Shuffle, reference: Reference, fluency_uri: str | None, crew: Crew, wait: bool
) -> None:
    reference_uri = storage.join(shuffle.area, f"reference-{reference.digest[:16]}.arrow")
    if not storage.exists(reference_uri):
        reference.write(reference_uri)
    work = partial(_judge_shard, shuffle=shuffle, params=params, reference_uri=reference_uri, fluency_uri=fluency_uri)
    rows = [shard.rows for shard in shuffle.shards]
    crew.finish("judge", work, [shuffle.judgement(number) for number in range(len(rows))], rows, "rows", wait=wait)


def _judge_shard(
    number: int, shuffle: Shuffle, params: FilterParams, reference_uri: str, fluency_uri: str | None
) -> None:
    table = shuffle.ingest.read_shard(shuffle.shards[number])
    fluent = None
    if fluency_uri is not None and params.fluency is not None:
        fluent = fluency.Judge(_read_trigrams(fluency_uri), params.fluency)
    judgement = judge(table, params, _read_reference(reference_uri), fluent)
    end_if_orphaned()
    storage.write_bytes(shuffle.judgement(number), judgement.to_bytes())


@lru_cache(maxsize=1)
def _read_reference(uri: str) -> Reference:
    return Reference.read(uri)


@lru_cache(maxsize=1)
def _read_trigrams(uri: str) -> Trigrams:
    return Trigrams.from_bytes(storage.read_bytes(uri))


def _settle_group(shuffle: Shuffle, group: int) -> None:
    """A digest of all that is decided about each shard of a group."""
    digests = [_decide(shuffle, number).digest for number in shuffle.plan.shards_of(group)]
    end_if_orphaned()
    storage.write_bytes(shuffle.place("settled", group), json.dumps(digests).encode())


def _settled(shuffle: Shuffle, group: int) -> list[str]:
    digests: list[str] = json.loads(storage.read_bytes(shuffle.place("settled", group)))
    return digests


@dataclass(frozen=True)
class _Decided:
    """What is decided about a shard: which rows stay, why the others go, every row's language and scores."""

    sources: list[str]
    verdict: Verdict
    languages: list[str]
    scores: pa.Table

    @property
    def digest(self) -> str:
        rest = digest_json([self.verdict.details, self.languages, self.scores.column_names]).encode()
        scores = (column.to_numpy().tobytes() for column in self.scores.columns)
        return hashlib.sha256(b"".join([self.verdict.codes.tobytes(), rest, *scores])).hexdigest()


def _decide(shuffle: Shuffle, number: int) -> _Decided:
    """The row rules' verdict on a shard, then that of the phases in which it met other shards, then contamination."""
    columns = ("source", "code", "detail", "lang", "contaminated", "evidence", "scores")
    table = read_judgement(shuffle.judgement(number), columns)
    verdict = Verdict(table["code"].to_numpy().copy(), table["detail"].to_pylist())
    for reason, losers in _losers(shuffle, shuffle.plan.group_of(number)):
        _drop_losers(verdict, number, losers, reason)
    contaminated, evidence = table["contaminated"].to_numpy(), table["evidence"].to_pylist()
    verdict.drop(contaminated == contamination.EXACT, "contaminated_exact", evidence)
    verdict.drop(contaminated == contamination.NEAR, "contaminated_near", evidence)
    scores = table.select([name for name in table.column_names if name.startswith(SCORE)])
    return _Decided(table["source"].to_pylist(), verdict, table["lang"].to_pylist(), scores)


@lru_cache(maxsize=1)
def _losers(shuffle: Shuffle, group: int) -> list[tuple[str, pa.Table]]:
    """The rows of a group's shards that other rows stand for, by reason, in the order of the stages."""
    found = [("exact_duplicate", shuffle.losers("exact", shuffle.plan.key_partitions, group))]
    if shuffle.near.threshold is not None:
        found.append(("near_duplicate", shuffle.losers("near", 1, group)))
    if shuffle.semantic_partitions:
        found.append(("semantic_duplicate", shuffle.losers("semantic", 1, group)))
    return found


def _drop_losers(verdict: Verdict, shard: int, losers: pa.Table, reason: str) -> None:
    """Drop the rows of a shard that are among the losers; the detail names the row that survives and, where that is
    another, the one that the row was found to be like, and the cosine with that one where a model found it."""
    first, last = np.searchsorted(losers["address"].to_numpy(), [shard << ROW_BITS, (shard + 1) << ROW_BITS])
    mine = losers.slice(first, last - first)
    address, survivor, like = (mine[name].to_numpy() for name in ("address", "survivor", "like"))
    rows = (address & ROW_MASK).astype(np.int64)
    verdict.codes[rows] = CODES[reason]
    columns = (rows.tolist(), survivor.tolist(), like.tolist(), mine["cosine"].to_pylist())
    for row, one, other, cosine in zip(*columns, strict=True):
        said = f"of {one}" if one == other else f"of {one}, like {other}"
        verdict.details[row] = said if cosine is None else f"{said}, cosine {cosine:.3f}"


def _write_shard(task: ShardTask, shuffle: Shuffle, params: FilterParams) -> list[ShardOutput]:
    number: int = task.payload
    decided = _decide(shuffle, number)
    table = clean_table(shuffle.ingest.read_shard(shuffle.shards[number], SCHEMA.names))
    table = table.set_column(SCHEMA.get_field_index("lang"), "lang", pa.array(decided.languages, pa.string()))
    kept = decided.verdict.kept
    lost = np.flatnonzero(~kept)
    reasons = (*REASONS, *params.classifiers)
    why = [reasons[code] for code in decided.verdict.codes[lost]]
    kept_table = classification.store_scores(table.filter(pa.array(kept)), decided.scores.filter(pa.array(kept)))
    stats = Counter(f"lang.{code}" for code in kept_table["lang"].to_pylist())
    for name, stage in params.classifiers.items():
        stats[f"scored.{stage}.{name}"] = int(np.isfinite(decided.scores[f"{SCORE}{name}"].to_numpy()).sum())
    rejected = reject_records(table.filter(pa.array(~kept)), why, [decided.verdict.details[row] for row in lost])
    return [ShardOutput(kept_table, rejected, Counter(table["source"].to_pylist()), dict(stats))]


def _check_sources(context: Context, ingest: Dataset, ledger: Ledger, reasons: Sequence[str]) -> None:
    """Say how many rows stay, and warn of each source that loses every row. Raises InputError if all do."""
    kept = ledger.rows_out.total()
    for source, rows_in in sorted(ledger.rows_in.items()):
        if not ledger.rows_out[source]:
            dropped = ledger.dropped[source]
            reason, rows = min(dropped.items(), key=lambda item: (-item[1], reasons.index(item[0])))
            line = f"source {source}: all {rows_in:,} rows were dropped, {rows:,} of them for {reason!r}"
            if not kept:  # said only now that the dataset is there, so that the rejected rows can be looked at
                raise InputError(f"{ingest.uri}: no row is left to train on; {line}")
            context.log(f"warning: {line}")
    context.log(f"{kept:,} of {ingest.rows:,} rows kept")
