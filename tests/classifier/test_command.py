"""`embedmill classifier` as a process: what it learns from real text, and how it answers bad input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import yaml

from components.core.classifier import Classifier
from components.core.pinned import digest
from tests.conftest import Embedmill

POSITIVE = [f"buy cheap {a} {b} now, free offer" for a in ("watches", "pills", "loans") for b in range(80)]
OTHER = [f"the {a} number {b} arrived at the station" for a in ("train", "letter", "guest") for b in range(80)]


def _write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    rows = [{"body": text, "kind": 1} for text in POSITIVE] + [{"body": text, "kind": 0} for text in OTHER]
    return _write(tmp_path / "rows.jsonl", rows)


def test_trained_on_offensive_posts_it_finds_held_out_ones(
    embedmill: Embedmill, shared_data: Path, tmp_path: Path
) -> None:
    done = embedmill(
        "classifier", "train", "--data", shared_data / "cold" / "train.jsonl.gz",
        "--text", "text", "--label", "label", "--positive", "1", "--output", "toxicity", "--license", "Apache-2.0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "toxicity" / "card.json").read_text())
    assert card["average_precision"] > 0.93
    assert card["chosen"]["precision"] > 0.92 and card["chosen"]["recall"] > 0.65
    assert card["data"] == {
        str(shared_data / "cold" / "train.jsonl.gz"): digest(str(shared_data / "cold" / "train.jsonl.gz"))
    }
    assert (
        card["fit"]["texts"] + card["tune"]["texts"] + card["test"]["texts"] + sum(card["unused"].values())
        == card["rows"]
    )
    entry = yaml.safe_load(done.stdout)[0]
    assert entry == {
        "name": "toxicity",
        "label": "toxicity",
        "uri": "toxicity/model.skops",
        "sha256": digest(str(tmp_path / "toxicity" / "model.skops")),
        "threshold": card["threshold"],
    }
    text = (tmp_path / "toxicity" / "README.md").read_text()
    assert entry["sha256"] in text and "Apache-2.0" in text and f"**{card['threshold']:.2f}**" in text


def test_trained_on_spam_with_words_it_tells_it_from_messages(
    embedmill: Embedmill, shared_data: Path, tmp_path: Path
) -> None:
    done = embedmill(
        "classifier", "train", "--data", shared_data / "sms_spam_en" / "all.jsonl.gz", "--words",
        "--text", "text", "--label", "label", "--positive", "spam", "--output", "advertisement",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "advertisement" / "card.json").read_text())
    assert card["average_precision"] > 0.97
    assert card["chosen"]["precision"] > 0.95 and card["chosen"]["recall"] > 0.85


def test_a_background_keeps_the_classifier_from_text_of_other_kinds(
    embedmill: Embedmill, shared_data: Path, tmp_path: Path
) -> None:
    with gzip.open(shared_data / "en_train_clean" / "stsb_en__train.jsonl.gz", "rt", encoding="utf-8") as lines:
        unseen = sorted({json.loads(line)["text"] for line in lines})
    dropped = []
    for background in ((), ("--background", shared_data / "en_train_clean" / "mrpc__train.jsonl.gz", "text")):
        done = embedmill(
            "classifier", "train", "--data", shared_data / "sms_spam_en" / "all.jsonl.gz", "--words", *background,
            "--text", "text", "--label", "label", "--positive", "spam", "--output", "spam",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        path = str(tmp_path / "spam" / "model.skops")
        dropped.append(float((Classifier.open(path, digest(path), "spam").scores(unseen) >= 0.5).mean()))
    assert dropped[0] > 0.005 and dropped[1] < 0.1 * dropped[0]
    card = json.loads((tmp_path / "spam" / "card.json").read_text())
    assert card["average_precision"] > 0.97 and len(card["data"]) == 2
    assert (
        card["fit"]["texts"] + card["tune"]["texts"] + card["test"]["texts"] + sum(card["unused"].values())
        == card["rows"]
    )
    assert "Background, none of it spam: column `text` of" in (tmp_path / "spam" / "README.md").read_text()


def test_the_same_data_give_the_same_bytes(embedmill: Embedmill, labelled: Path, tmp_path: Path) -> None:
    names = ("model.skops", "card.json", "README.md", "precision_recall.svg")
    made = []
    for hash_seed in ("1", "2"):
        done = embedmill(
            "classifier", "train", "--data", labelled, "--text", "body", "--label", "kind", "--positive", "1",
            "--output", "spam", "--words", env={"PYTHONHASHSEED": hash_seed},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append([(tmp_path / "spam" / name).read_bytes() for name in names])
    assert made[0] == made[1]
    path = str(tmp_path / "spam" / "model.skops")
    scores = Classifier.open(path, digest(path), "spam").scores(["buy cheap books now", "the bus arrived at the gate"])
    assert scores[0] > 0.9 > 0.1 > scores[1]
    # full-width letters hide nothing
    assert Classifier.open(path, digest(path), "spam").scores(["ｂｕｙ ｃｈｅａｐ books now"])[0] == scores[0]


def test_texts_stand_on_one_side_of_the_split_and_contradictions_on_none(
    embedmill: Embedmill, labelled: Path, tmp_path: Path
) -> None:
    with labelled.open("a") as file:
        for row in (
            {"body": POSITIVE[0].upper(), "kind": 1},
            {"body": POSITIVE[1], "kind": 0},
            {"body": "\u200b", "kind": 0},
            {"body": None, "kind": 0},
        ):
            file.write(json.dumps(row) + "\n")
        file.write("{broken\n")
    done = embedmill("classifier", "train", "--data", labelled, "--text", "body", "--label", "kind", "--positive", "1",
                     "--output", "spam")  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "spam" / "card.json").read_text())
    assert card["unused"] == {
        "empty": 1, "no text or no label": 1, "not_json": 1, "text seen before": 2, "text with both labels": 1,
    }  # fmt: skip
    assert card["rows"] == 485
    assert sum(card[part]["texts"] for part in ("fit", "tune", "test")) == 479


def test_scores_are_printed_for_lines_of_text(embedmill: Embedmill, labelled: Path, tmp_path: Path) -> None:
    embedmill("classifier", "train", "--data", labelled, "--text", "body", "--label", "kind", "--positive", "1",
              "--output", "spam")  # fmt: skip
    (tmp_path / "texts").write_text(f"{POSITIVE[5]}\n{OTHER[5]}\n")
    done = embedmill("classifier", "score", "spam/model.skops", "--label", "spam", "--file", "texts")
    high, low = (line.split("\t") for line in done.stdout.splitlines())
    assert float(high[0]) > 0.9 > 0.1 > float(low[0])
    assert (high[1], low[1]) == (POSITIVE[5], OTHER[5])
    shown = embedmill("classifier", "digest", "spam/model.skops").stdout.strip()
    assert shown == digest(str(tmp_path / "spam" / "model.skops"))


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        ({"--text": "text"}, 3, "row 0 has no column 'text'; columns found: body, kind"),
        ({"--positive": "spam"}, 2, "--positive spam: no row has this kind; labels found: '1', '0'"),
        ({"--data": "none.jsonl"}, 3, "none.jsonl: no such file or folder"),
        ({"--data": "one_class.jsonl"}, 3, "too few texts: 0 other ones to test on"),
        ({"--data": "few.jsonl"}, 3, "too few texts:"),
        ({"--background": "rows.jsonl"}, 2, "Option '--background' requires 2 arguments"),
        ({"--output": "Spam-Model"}, 2, "--name: 'Spam-Model' is no name for a reason"),
        ({"--holdout": "0.7"}, 2, "0.7 is not in the range"),
    ],
)
def test_bad_input_ends_with_one_line(
    embedmill: Embedmill, labelled: Path, tmp_path: Path, changed: dict[str, str], code: int, message: str
) -> None:
    _write(tmp_path / "one_class.jsonl", [{"body": text, "kind": 1} for text in POSITIVE])
    _write(tmp_path / "few.jsonl", [{"body": text, "kind": int(i < 5)} for i, text in enumerate(OTHER[:30])])
    options = {"--data": str(labelled), "--text": "body", "--label": "kind", "--positive": "1", "--output": "spam"}
    done = embedmill("classifier", "train", *(part for pair in {**options, **changed}.items() for part in pair))
    assert done.returncode == code, done.stderr
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "spam").exists()
