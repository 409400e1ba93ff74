"""Quality at equal steps: the ablation of Conan-embedding on our scale, by the real steps, resumable cell by cell.

`python benchmarks/ablation.py`, or the part `ablation` of training.py, makes data and pretrained model once, then
fine-tunes each variant with each seed. All see the same rows in the same number of steps. A finished cell is a file and
is not run again while code, parameters and data are the same; `--again` begins from nothing.
"""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder: its modules are benchmarks.NAME

from benchmarks import texts  # noqa: E402
from benchmarks.measure import Result, Table, progress, versions  # noqa: E402

FOLDER = ROOT / ".embedmill" / "ablation"
SEEDS = (1, 2, 3)
DIMS = [256, 128, 64]
EPOCHS, RETRIEVAL, SIMILARITY, NEGATIVES, ROLES = 4, 256, 256, 2, 4
DYNAMIC = {"check_every": 50, "ratio": 1.15, "ceiling": 0.8, "offset": 10}
PRETRAINED = "pretrained only"
# variant → dynamic mining, retrieval roles of balanced batches (0: tasks in turn); one role has vanilla's negatives
VARIANTS = {
    "vanilla": (False, 0),
    "DHNM": (True, 0),
    "CBB, one retrieval role": (False, 1),
    "CBB": (False, ROLES),
    "CBB + DHNM": (True, ROLES),
}
STS = ("lcqmc__dev", "bq__dev", "stsb_zh__dev")
RETRIEVED = {"cmrc2018_retrieval": "dev", "drcd_retrieval": "test", "csl_title2abs": "test"}  # and their splits


@dataclass(frozen=True)
class Study:
    """What is compared; the tests take a small one: few sources, few seeds."""

    folder: Path = FOLDER
    seeds: tuple[int, ...] = SEEDS
    overlay: Mapping[str, Any] = field(default_factory=dict)  # sections over those of the recipe
    tests: tuple[str, ...] = (*STS, *RETRIEVED)
    batches: tuple[int, int] = (RETRIEVAL, SIMILARITY)

    @property
    def cells(self) -> Path:
        """Where the finished cells are."""
        return self.folder / "cells"


def run() -> Result:
    return measure(Study())


def measure(study: Study) -> Result:
    """The table of variants, with the mean and the standard deviation over the seeds."""
    rows = _prepare(study)
    found: dict[str, list[dict[str, Any]]] = {PRETRAINED: [_pretrained(study)]}
    for name, (dynamic, roles) in VARIANTS.items():
        found[name] = [cell(study, name, settings(study, rows, dynamic, roles), seed) for seed in study.seeds]
    return _result(study, rows, found)


def settings(study: Study, rows: Mapping[str, int], dynamic: bool, roles: int) -> dict[str, Any]:
    """Parameters of a variant: balanced batches are smaller, so that an epoch has as many steps as without."""
    retrieval, similarity = study.batches
    if roles:
        steps = sum(math.ceil(rows[task] / size) for task, size in zip(rows, study.batches, strict=True))
        retrieval, similarity = (max(1, round(count / steps)) for count in rows.values())
    return {
        "schedule.sampling": "balanced" if roles else "proportional",
        "schedule.roles": {"retrieval": roles or 1, "similarity": 1, "classes": 0},
        "retrieval.batch_size": retrieval,
        "similarity.batch_size": similarity,
        "mining.dynamic": DYNAMIC if dynamic else None,
    }


def _sections(study: Study) -> dict[str, Any]:
    """Parameters of the Chinese recipe, on a smaller model, without the share of old weights that it keeps."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    recipe = yaml.safe_load((ROOT / "recipes" / "zh.yaml").read_text(encoding="utf-8"))
    ours: dict[str, Any] = {
        "evaluate": {"suite": [_suite(name) for name in study.tests], "dims": DIMS},
        "pretrain": {"matryoshka": {"dims": DIMS}},
        "finetune": {
            "epochs": EPOCHS,
            "keep": 0.0,
            "similarity": {"weight": 0.8},
            "mining": {"negatives": NEGATIVES, "last": 100},
        },
    }
    for overlay in (recipe, ours, study.overlay):
        _merge(params, overlay)
    for source in params["ingest"]["sources"]:
        source["uri"] = source["uri"].replace("../shared/data", str(texts.shared_data()))
    return params


def _suite(name: str) -> dict[str, Any]:
    if name in RETRIEVED:
        return {
            "name": name.partition("_")[0],
            "type": "beir",
            "uri": str(texts.shared_data() / name),
            "split": RETRIEVED[name],
        }
    return {
        "name": name.replace("__", "_"),
        "type": "sts",
        "uri": str(texts.shared_data() / "zh_train_clean" / f"{name}.jsonl.gz"),
    }


def _merge(into: dict[str, Any], overlay: Mapping[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict) and key not in ("labels", "columns"):
            _merge(into[key], value)
        else:
            into[key] = copy.deepcopy(value)


def _prepare(study: Study) -> dict[str, int]:
    """Data and pretrained model, unless an earlier run made them from the same; rows by task for the balance."""
    from components.core.fingerprint import digest_json
    from components.core.manifest import Dataset

    sections = _sections(study)
    made_from, marker = digest_json([sections, _code()]), study.folder / "made_from"
    if not marker.is_file() or marker.read_text() != made_from:
        shutil.rmtree(study.folder, ignore_errors=True)
        study.folder.mkdir(parents=True)
        text = yaml.safe_dump(sections, allow_unicode=True, sort_keys=False)
        (study.folder / "params.yaml").write_text(text, encoding="utf-8")
        for step in ("sources", "ingest", "filter", "score", "pretrain"):
            progress(f"ablation: {step}")
            _embedmill(study, step)
        marker.write_text(made_from)
    data = Dataset.open(str(study.folder / "data" / "score")).read(columns=["task"]).column("task").to_pylist()
    return {task: data.count(task) for task in ("retri_contrast", "cosent")}


def _code() -> str:
    """Digest of the code that makes data and models: another one makes other cells."""
    from components.core.fingerprint import digest_file, digest_json

    rooms = ("core", "ingest", "filter", "score", "training", "pretrain", "finetune")
    files = [file for room in rooms for file in sorted((ROOT / "components" / room).glob("*.py"))]
    return digest_json([digest_file(file) for file in files])


def cell(study: Study, variant: str, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Fine-tune and measure one variant with one seed, or read what an earlier run found."""
    slug = re.sub(r"\W+", "-", variant).lower()
    file, place = study.cells / f"{slug}-{seed}.json", study.folder / f"{slug}-{seed}"
    if file.is_file():
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["settings"] == dict(settings):
            return dict(found)
    progress(f"ablation: {variant}, seed {seed}")
    shutil.rmtree(place, ignore_errors=True)
    start = time.monotonic()
    options = [f"--{port}={place / port}" for port in ("output", "loss", "dev", "negatives", "metrics")]
    changes = {f"finetune.{key}": value for key, value in settings.items()} | {"run.seed": seed}
    _embedmill(study, "finetune", *options, *(f"--set={key}={json.dumps(value)}" for key, value in changes.items()))
    seconds = time.monotonic() - start
    metrics = json.loads((place / "metrics").read_text(encoding="utf-8"))
    logged = (place / "loss").read_text(encoding="utf-8").splitlines()[1:]
    found = {
        "settings": dict(settings),
        "scores": _scores(study, place / "output"),
        "seconds": seconds,
        "steps": len({line.partition(",")[0] for line in logged}),
        "replaced": int(metrics["negatives"]["replaced_in_all"]),
        "minings": int(metrics["negatives"]["minings"]),
    }
    study.cells.mkdir(exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(place)
    return found


def _pretrained(study: Study) -> dict[str, Any]:
    scores = _scores(study, study.folder / "models" / "pretrain")
    return {"scores": scores, "seconds": 0.0, "steps": 0, "replaced": 0, "minings": 0}


def _scores(study: Study, model: Path) -> dict[str, float]:
    """Main metric of each task in percent, at the model's full dimension."""
    from components.core.measure import main_metric
    from components.core.measure import measure as measure_tasks
    from components.core.suite import SuiteParams, load_suite
    from components.training.encoder import open_encoder

    tasks = load_suite([SuiteParams(**_suite(name)) for name in study.tests], None)
    encoder = open_encoder(str(model))
    measured = measure_tasks(encoder, tasks, [DIMS[0]], encoder.prompts)
    return {task.name: measured[task.name][DIMS[0]][main_metric(task)] for task in tasks}


def _embedmill(study: Study, *arguments: str) -> None:
    command = [sys.executable, "-m", "components.cli", *arguments]
    done = subprocess.run(
        command, cwd=study.folder, capture_output=True, text=True, env={**_environment(), "PYTHONPATH": str(ROOT)}
    )
    if done.returncode:
        raise SystemExit(f"embedmill {' '.join(arguments)} failed:\n{done.stderr[-3000:]}")


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def _result(study: Study, rows: Mapping[str, int], found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Result:
    names = list(found[PRETRAINED][0]["scores"])
    sts = len([name for name in study.tests if name in STS])
    groups = {"graded pairs": names[:sts], "retrieval": names[sts:], "all": names}
    lines, values = [], {}
    for variant, cells in found.items():
        by_task = {name: [cell["scores"][name] for cell in cells] for name in names}
        means = {
            group: [statistics.mean(cell["scores"][name] for name in of) for cell in cells]
            for group, of in groups.items()
            if of
        }
        scores = [_spread(each) for each in (*by_task.values(), *means.values())]
        told = {key: [cell[key] for cell in cells] for key in ("seconds", "steps", "replaced", "minings")}
        lines.append([variant, *scores, told["steps"][0], round(statistics.mean(told["replaced"]))])
        values[variant] = {"tasks": by_task, "means": means, **told}
    note = (
        f"Spearman of the cosine (graded pairs, dev sets that were kept out of training) and nDCG@10 (retrieval, other "
        f"sets than those trained on), in percent at {DIMS[0]} dimensions: mean ± standard deviation over seeds "
        f"{', '.join(map(str, study.seeds))}. A static model pretrained by recipes/zh.yaml, then {EPOCHS} epochs over "
        f"{rows['retri_contrast']:,} retrieval and {rows['cosent']:,} graded pairs of zh_train_clean. Batches: "
        f"{study.batches[0]} and {study.batches[1]} pairs in turn; with CBB both tasks in every step, each in "
        f"batches so much smaller that rows and steps are the same. {NEGATIVES} mined negatives a query, with CBB as "
        f"many in each of {ROLES} roles, or in one. DHNM checks every {DYNAMIC['check_every']} steps. Nothing of the "
        f"old weights is mixed in (keep 0), weight of CoSENT 0.8."
    )
    header = ("", *names, *(group for group, of in groups.items() if of), "steps", "negatives replaced")
    return Result("ablation", [Table("Quality at equal steps", header, lines, note)], values, versions(("torch",)))


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def main(arguments: Sequence[str]) -> None:
    if set(arguments) - {"--again"}:
        raise SystemExit("usage: ablation.py [--again]")
    if arguments:
        shutil.rmtree(FOLDER, ignore_errors=True)
    result = run()
    result.script = "ablation.py"
    result.save()
    print(result.markdown())


if __name__ == "__main__":
    main(sys.argv[1:])
