"""`embedmill calibrate`: draw a teacher's true pairs against shuffled ones, and propose score.thresholds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from components.core import environment, settings, storage
from components.core.command import check_writable, params_options, parse_sections
from components.core.errors import InputError
from components.core.execute import worker_count
from components.core.progress import Progress
from components.core.teacher import ScoreParams

if TYPE_CHECKING:
    from components.calibrate.calibration import Calibration, Cut
    from components.core.manifest import Dataset
    from components.core.settings import RunParams

BAR = 28
# Cuts shown in the table: every 0.05, from the last that keeps everything to the first that keeps next to nothing.
TABLE_STEP = 5
NEARLY_ALL, NEARLY_NONE = 0.999, 0.001


def _calibrate(data: str, sample: int, keep: float, picture: str, params: str, assignments: tuple[str, ...]) -> None:
    """Draw the cosines of true retrieval pairs against those of shuffled ones, for each teacher; propose thresholds.

    A shuffled pair is a query with the passage of another pair of its language. The proposed threshold is the highest
    one that keeps the wanted share of true pairs; what it keeps of the shuffled ones says how much it is worth.
    """
    from components import chain
    from components.calibrate.picture import page
    from components.core.manifest import Dataset

    parameters = settings.override(settings.read_params(params), assignments)
    run, sections = parse_sections({"score": ScoreParams}, parameters, params, chain.sections())
    section = sections["score"]
    assert isinstance(section, ScoreParams)
    environment.quiet()
    environment.fix_threads(run.threads)
    check_writable(picture)
    calibrations = _measure(Dataset.open(data), section, sample, run)
    proposed = [(each, each.proposed(keep), _table(each, each.proposed(keep))) for each in calibrations]
    for each, cut, table in proposed:
        for line in _lines(each, cut, table):
            click.echo(line)
    thresholds = {**section.thresholds, **{each.teacher: cut.threshold for each, cut, _ in proposed}}
    paste = f"score:\n  thresholds: {_flow(thresholds)}"
    storage.write_bytes(picture, page(proposed, paste).encode())
    click.echo(f"{paste}\n\npicture: {picture}")


def _measure(dataset: Dataset, params: ScoreParams, sample: int, run: RunParams) -> list[Calibration]:
    """One calibration for each teacher that has pairs; its encoder is opened before anything else is done."""
    import numpy as np

    from components.calibrate.calibration import Calibration
    from components.calibrate.sample import draw
    from components.training.encoder import open_encoder
    from components.training.vectors import TEACHER_CACHE, cosines, encode_cached

    found = []
    for teacher in sorted(set(params.teachers.values())):
        languages = [lang for lang, each in params.teachers.items() if each == teacher]
        if not any(dataset.stats.get(f"lang.{lang}", 1) for lang in languages):
            continue
        encoder = open_encoder(teacher, params.precision)
        with Progress("read", dataset.rows) as bar:
            pairs = draw(dataset, languages, sample, bar.advance)
        queries, passages = pairs.shuffled()
        if not len(queries):
            continue
        pairs = pairs.prompted(encoder.prompts)
        texts = pairs.texts()
        with Progress(f"encode with {teacher}", len(texts), "texts") as bar:
            vectors = encode_cached(encoder, texts, TEACHER_CACHE, worker_count(run.workers), bar.advance)
        place = {text: row for row, text in enumerate(texts)}
        left = np.array([place[text] for text in pairs.queries])
        right = np.array([place[text] for text in pairs.passages])
        true = cosines(vectors, left, right)
        shuffled = cosines(vectors, left[queries], right[passages])
        usable, usable_shuffled = np.isfinite(true), np.isfinite(shuffled)
        if usable.any() and usable_shuffled.any():
            present = tuple(sorted(set(pairs.languages)))
            found.append(Calibration(teacher, present, true[usable], shuffled[usable_shuffled], int((~usable).sum())))
    if not found:
        wanted = ", ".join(f"{lang}: {teacher}" for lang, teacher in sorted(params.teachers.items()))
        raise InputError(f"{dataset.uri}: no two different retrieval pairs in a language with a teacher ({wanted})")
    return found


def _table(calibration: Calibration, proposed: Cut) -> list[Cut]:
    """Cuts in steps of 0.05 where something changes, with the proposed one among them."""
    cuts = [cut for cut in calibration.cuts() if round(cut.threshold * 100) % TABLE_STEP == 0]
    first = max((cut.threshold for cut in cuts if cut.kept_shuffled >= NEARLY_ALL), default=-1.0)
    last = min((cut.threshold for cut in cuts if cut.kept_true <= NEARLY_NONE), default=1.0)
    shown = {cut.threshold: cut for cut in cuts if first <= cut.threshold <= last} | {proposed.threshold: proposed}
    return [shown[threshold] for threshold in sorted(shown)]


def _lines(calibration: Calibration, proposed: Cut, table: Sequence[Cut]) -> Iterator[str]:
    yield f"{calibration.teacher} ({', '.join(calibration.languages)})"
    blank = f", {calibration.blank:,} pairs without a vector left out" if calibration.blank else ""
    yield (
        f"  {len(calibration.true):,} true and {len(calibration.shuffled):,} shuffled pairs{blank}; a true pair scores "
        f"above a shuffled one with probability {calibration.separation():.3f}"
    )
    yield ""
    bins = list(calibration.bins())
    top = max(max(true, shuffled) for _, true, shuffled in bins)
    yield f"  {'shuffled':>{BAR}} {'cosine':^8} true"
    for low, true, shuffled in bins:
        left, right = "░" * round(shuffled / top * BAR), "█" * round(true / top * BAR)
        yield f"  {left:>{BAR}} {low:^8.2f} {right}".rstrip()
    yield ""
    yield f"  {'threshold':>9} {'true kept':>10} {'shuffled kept':>14}"
    for cut in table:
        mark = "  ← proposed" if cut == proposed else ""
        yield f"  {cut.threshold:>9.2f} {cut.kept_true:>10.1%} {cut.kept_shuffled:>14.1%}{mark}"
    other = calibration.best_informed()
    yield (
        f"  Youden's J is largest at {other.threshold:.2f}, which keeps {other.kept_true:.1%} of true and "
        f"{other.kept_shuffled:.1%} of shuffled pairs."
    )
    yield ""


def _flow(thresholds: Mapping[str, float]) -> str:
    """A YAML mapping on one line; a name that YAML would take apart stands in quotes."""
    names = {
        name: name if name.replace("-", "").replace("_", "").isalnum() else json.dumps(name) for name in thresholds
    }
    return "{" + ", ".join(f"{names[name]}: {thresholds[name]:g}" for name in sorted(thresholds)) + "}"


calibrate = click.Command(
    "calibrate",
    params=[
        click.Option(["--data"], default="data/filter", show_default=True, metavar="URI", help="Dataset to draw from."),
        click.Option(
            ["--sample"], type=click.IntRange(min=2), default=10_000, show_default=True, help="Pairs of each teacher."
        ),
        click.Option(
            ["--keep"],
            type=click.FloatRange(0, 1),
            default=0.975,
            show_default=True,
            help="Share of true pairs to keep at least.",
        ),
        click.Option(
            ["--picture"], default="reports/calibrate.html", show_default=True, metavar="URI", help="Page to write."
        ),
        *params_options(),
    ],
    callback=_calibrate,
    help=_calibrate.__doc__,
    short_help="Choose score.thresholds: true pairs against shuffled ones.",
)
