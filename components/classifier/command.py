"""`embedmill classifier`: train one from labelled texts, try one out, show the digest to write into params.yaml."""

from __future__ import annotations

import re
import sys
from typing import TextIO

import click

from components.core import environment, storage
from components.core.command import check_writable
from components.core.errors import UsageError
from components.core.fingerprint import digest_bytes
from components.core.pinned import digest

NAME = r"^[a-z][a-z0-9_]*$"


@click.group(short_help="Train, try and pin the classifiers of the filter's safety and quality stages.")
def classifier() -> None:
    """Classifiers that filter.safety and filter.quality judge rows with."""


@classifier.command(short_help="Train on labelled texts; write model and card.")
@click.option("--data", "uris", multiple=True, required=True, metavar="URI", help="File or folder of rows; repeatable.")
@click.option("--text", required=True, metavar="COLUMN", help="Column of the text.")
@click.option("--label", required=True, metavar="COLUMN", help="Column of the label.")
@click.option("--positive", multiple=True, required=True, metavar="VALUE", help="Label to find; repeatable.")
@click.option(
    "--background",
    nargs=2,
    multiple=True,
    metavar="URI COLUMN",
    help="Rows whose texts are none of it, such as your own corpus; repeatable.",
)
@click.option("--output", required=True, metavar="FOLDER", help="Folder or s3:// prefix to write the classifier to.")
@click.option("--name", metavar="NAME", help="What the label is called; by default the folder's name.")
@click.option("--words", is_flag=True, help="Use words too, for languages that put spaces between them.")
@click.option("--precision", type=click.FloatRange(0.5, 1), default=0.95, show_default=True, help="Wanted precision.")
@click.option(
    "--holdout",
    type=click.FloatRange(0, 0.4, min_open=True),
    default=0.1,
    show_default=True,
    help="Share of texts to measure on; as many choose the threshold.",
)
@click.option("--seed", type=click.IntRange(0), default=42, show_default=True, help="Seed of the split.")
@click.option("--license", "license_", default="unknown", show_default=True, help="Licence of the data, for the card.")
def train(
    uris: tuple[str, ...],
    text: str,
    label: str,
    positive: tuple[str, ...],
    background: tuple[tuple[str, str], ...],
    output: str,
    name: str | None,
    words: bool,
    precision: float,
    holdout: float,
    seed: int,
    license_: str,
) -> None:
    """Train a classifier on labelled texts and write it with a card of held-out figures and a threshold to use."""
    name = name or output.rstrip("/").rpartition("/")[2]
    if not re.match(NAME, name):
        raise UsageError(f"--name: {name!r} is no name for a reason; wanted small letters, digits and underscores")
    environment.quiet()
    environment.fix_threads(1)  # the order of a sum over threads would show in the model's bytes
    check_writable(output)

    from components.classifier import card, examples, figures, model

    found = examples.read_examples(uris, text, label, positive, background)
    parts = examples.split(found, holdout, seed)
    _say(f"{found.rows:,} rows, {len(found.texts):,} texts, {found.positive.sum():,} of them {name}")
    fitted = model.fit([found.texts[i] for i in parts.fit], found.positive[parts.fit], name, words)
    data = model.encode(fitted)
    column = list(fitted.classes_).index(name)
    tune, test = (
        fitted.predict_proba([found.texts[i] for i in rows])[:, column].astype("float32")
        for rows in (parts.tune, parts.test)
    )
    threshold = figures.choose_threshold(tune, found.positive[parts.tune], precision)
    truth = found.positive[parts.test]
    used = 0.99 if threshold is None else threshold
    uri = storage.join(output, card.MODEL)
    result = card.Result(
        label=name,
        uri=uri,
        sha256=digest_bytes(data),
        threshold=used,
        precision=precision,
        reached=threshold is not None,
        average_precision=figures.average_precision(test, truth),
        points=tuple(figures.point(test, truth, each) for each in figures.THRESHOLDS),
        chosen=figures.point(test, truth, used),
        curve=tuple(figures.curve(test, truth)),
        columns={"text": text, "label": label},
        positive=positive,
        license=license_,
        background=background,
        settings={"words": words, "holdout": holdout, "seed": seed, "features": model.FEATURES},
    )
    storage.write_bytes(storage.join(output, card.CURVE), card.curve_svg(result.curve, result.average_precision))
    storage.write_bytes(storage.join(output, card.CARD), card.card_json(result, found, parts))
    storage.write_bytes(storage.join(output, card.README), card.readme(result, found, parts))
    storage.write_bytes(uri, data)
    if threshold is None:
        _say(f"warning: no threshold reaches a precision of {precision:.0%}; {used} is only a guess")
    chosen = result.chosen
    _say(
        f"average precision {result.average_precision:.3f}; at {used}: precision {chosen.precision:.3f}, recall "
        f"{chosen.recall:.3f} on {len(truth):,} held-out texts; see {storage.join(output, card.README)}"
    )
    click.echo(f"- {{name: {name}, uri: {uri}, label: {name}, threshold: {used},\n   sha256: {result.sha256}}}")


@classifier.command(short_help="Print a label's probability for lines of text.")
@click.argument("uri")
@click.option("--label", required=True, help="Label whose probability is wanted.")
@click.option(
    "--file", "texts", type=click.File(encoding="utf-8"), default="-", help="Texts, one a line (default: stdin)."
)
def score(uri: str, label: str, texts: TextIO) -> None:
    """Print the probability of a label for each line of text, and the line."""
    environment.quiet()

    from components.core.classifier import Classifier

    lines = [line.rstrip("\n") for line in texts]
    for value, line in zip(Classifier.open(uri, digest(uri), label).scores(lines), lines, strict=True):
        click.echo(f"{value:.4f}\t{line}")


@classifier.command("digest", short_help="Print the SHA-256 that params.yaml pins.")
@click.argument("uri")
def show_digest(uri: str) -> None:
    """Print the SHA-256 of a classifier or list, file or folder, as params.yaml wants it."""
    click.echo(digest(uri))


def _say(message: str) -> None:
    print(f"classifier: {message}", file=sys.stderr, flush=True)
