"""Safety and quality through the filter step: real files in; ledger, funnel and stored scores asserted."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from components.core.classifier import Classifier
from components.core.errors import InputError, UsageError
from components.core.manifest import Dataset
from components.core.pinned import digest
from components.filter.normalise import clean_text
from components.ledger.funnel import funnel as ledger_funnel

Filtered = Callable[..., Dataset]
TOPICS = ["harbour", "library", "bridge", "festival", "railway", "garden", "museum", "market"]
PLAIN = [f"The {a} near the {b} was opened in the year {n}." for n, a in enumerate(TOPICS, 1900) for b in TOPICS]
ADVERTS = [f"Buy cheap {a} tickets now, free {b} gift, call us!" for a in TOPICS for b in TOPICS]


@pytest.fixture(scope="session")
def advert_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.skops"
    model = make_pipeline(HashingVectorizer(n_features=4096), LogisticRegression(C=100))
    skops.io.dump(model.fit(PLAIN + ADVERTS, ["plain"] * len(PLAIN) + ["advert"] * len(ADVERTS)), path)
    return path


def _entry(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "name": "advertisement",
        "uri": str(path),
        "sha256": digest(str(path)),
        "label": "advert",
        "threshold": 0.5,
        **changes,
    }


def _row(text: str, passage: str, **more: Any) -> dict[str, Any]:
    return {"task": "retri_contrast", "text": text, "text_pos": passage, "source": "web", "lang": "en", **more}


def _pairs() -> list[dict[str, Any]]:
    """Plain pairs, then one with an advertisement as passage and one with an advertisement as query."""
    rows = [_row(f"When was the {a} opened?", text) for a, text in zip(TOPICS, PLAIN[::9], strict=False)]
    return [*rows, _row("What can I see in the city?", ADVERTS[3]), _row(ADVERTS[12], "A gift for the whole family.")]


def _reasons(dataset: Dataset) -> dict[str, int]:
    return dict(dataset.ledger.dropped.get("web", {}))


def _funnel(tmp_path: Path) -> dict[str, dict[str, str]]:
    with (tmp_path / "out.funnel.csv").open() as file:
        return {row["stage"]: row for row in csv.DictReader(file)}


def test_a_row_goes_when_a_side_reaches_the_threshold_and_scores_stay(
    filtered: Filtered, advert_model: Path, tmp_path: Path
) -> None:
    dataset = filtered(_pairs(), quality=[_entry(advert_model)], near_duplicates={"threshold": None})
    assert _reasons(dataset) == {"advertisement": 2}
    assert dataset.ledger.rows_in["web"] == len(_pairs()) == dataset.rows + 2
    assert _funnel(tmp_path)["quality"] == {
        "stage": "quality", "rows": str(dataset.rows), "dropped": "2", "reasons": "advertisement 2",
    }  # fmt: skip
    classifier = Classifier.open(str(advert_model), digest(str(advert_model)), "advert")
    for row in dataset.read().to_pylist():
        expected = classifier.scores([row["text"], row["text_pos"]]).max()
        assert json.loads(row["meta"]) == {"scores": {"advertisement": round(float(expected), 4)}}
        assert expected < 0.5
    rejected = dataset.read_rejected().to_pylist()
    worst = {round(float(score), 4) for score in classifier.scores([ADVERTS[3], ADVERTS[12]])}
    assert {float(row["detail"]) for row in rejected} == worst
    assert {row["reason"] for row in rejected} == {"advertisement"}


def test_a_side_and_languages_can_be_named(filtered: Filtered, advert_model: Path) -> None:
    for changes, dropped in (
        ({"side": "text"}, [ADVERTS[12]]),
        ({"side": "other"}, ["What can I see in the city?"]),
        ({"languages": ["zh"]}, []),
    ):
        dataset = filtered(_pairs(), safety=[_entry(advert_model, **changes)], near_duplicates={"threshold": None})
        assert [json.loads(row["record"])["text"] for row in dataset.read_rejected().to_pylist()] == dropped
        stored = [row["meta"] for row in dataset.read().to_pylist()]
        assert all(meta is None for meta in stored) if "languages" in changes else all(stored)


def test_labels_are_not_judged_and_known_meta_is_kept(filtered: Filtered, advert_model: Path) -> None:
    rows = [
        {"task": "cls_contrast", "text": PLAIN[1], "text_pos": ADVERTS[1], "source": "web", "lang": "en"},
        _row("When was it?", PLAIN[2], meta={"repeat": 2, "scores": {"old": 0.5}}),
    ]
    dataset = filtered(rows, quality=[_entry(advert_model)])
    metas = [json.loads(row["meta"]) for row in dataset.read().to_pylist()]
    assert (
        len(metas) == 2
        and set(metas[1]) == {"repeat", "scores"}
        and set(metas[1]["scores"]) == {"advertisement", "old"}
    )


def test_the_stages_in_order_and_the_same_bytes_whatever_the_split_of_work(
    filtered: Filtered, advert_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "blocked.txt").write_text("spam.example\n")
    chance = random.Random(3)
    plain = [_row(f"{PLAIN[i % 64]} Part {i}?", f"{PLAIN[(i * 7) % 64]} Page {i}.") for i in range(1500)]
    shuffled = [_row("Another question, please?", "".join(chance.sample(text, len(text)))) for text in PLAIN[:20]]
    rows = [
        *plain,
        *shuffled,
        *_pairs()[-2:],
        _row("What is on the page?", ADVERTS[9], url="https://www.spam.example:8080/a"),
        _row(f"{PLAIN[7]} Part 9?", PLAIN[5], url="https://www.notspam.example/"),
    ]
    params = {
        "blocked_domains": [{"uri": str(tmp_path / "blocked.txt"), "sha256": digest(str(tmp_path / "blocked.txt"))}],
        "safety": [_entry(advert_model, name="unsafe", threshold=0.9)],
        "quality": [_entry(advert_model)],
        "fluency": {},
        "near_duplicates": {"threshold": None},
        "max_symbol_share": 1.0,
    }
    first = filtered(rows, per_shard=400, **params)
    reasons = _reasons(first)
    assert reasons["blocked_domain"] == 1 and reasons["unsafe"] == 2 and "advertisement" not in reasons
    lost = [json.loads(row["record"]) for row in first.read_rejected().to_pylist() if row["reason"] == "fluency"]
    assert {row["text_pos"] for row in lost} == {clean_text(row["text_pos"]) for row in shuffled}
    funnel = _funnel(tmp_path)
    assert funnel["safety"]["reasons"] == "blocked_domain 1; unsafe 2"
    assert funnel["quality"]["reasons"] == "fluency 20"
    shown = {stage.name: [(loss.reason, loss.rows) for loss in stage.lost] for stage in ledger_funnel(first).stages}
    assert shown["safety"] == [("unsafe", 2), ("blocked_domain", 1)] and shown["quality"] == [("fluency", 20)]
    assert first.stats["scored.safety.unsafe"] == len(rows) - 1
    assert first.stats["scored.quality.advertisement"] == len(rows) - 23
    again = filtered(rows, per_shard=400, workers=2, out="again", **params)
    assert [shard.sha256 for shard in again.shards] == [shard.sha256 for shard in first.shards]
    assert [shard.rejected_sha256 for shard in again.shards] == [shard.rejected_sha256 for shard in first.shards]


def test_fluency_goes_on_from_its_counts_after_a_kill(
    filtered: Filtered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.filter import pipeline

    rows = [_row(f"{PLAIN[i % 64]} Part {i}?", f"{PLAIN[(i * 7) % 64]} Page {i}.") for i in range(1500)]
    expected = filtered(rows, per_shard=500, fluency={}, out="whole")
    judged = pipeline.judge

    def killed(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "judge", killed)
    with pytest.raises(KeyboardInterrupt):
        filtered(rows, per_shard=500, fluency={})
    monkeypatch.setattr(pipeline, "judge", judged)

    def counted(*arguments: Any) -> Any:
        raise AssertionError("the sample is counted once")

    monkeypatch.setattr(pipeline, "sample", counted)
    dataset = filtered(rows, per_shard=500, fluency={})
    assert [shard.sha256 for shard in dataset.shards] == [shard.sha256 for shard in expected.shards]


def test_a_changed_list_or_threshold_judges_again(filtered: Filtered, advert_model: Path, tmp_path: Path) -> None:
    rows = [*_pairs(), _row(PLAIN[7], PLAIN[5], url="http://b.example/")]
    path = tmp_path / "list.txt"
    for content, blocked in (("a.example\n", 0), ("b.example\n", 1)):
        path.write_text(content)
        lists = [{"uri": str(path), "sha256": digest(str(path))}]
        assert _reasons(filtered(rows, blocked_domains=lists)).get("blocked_domain", 0) == blocked
    for threshold, dropped in ((0.5, 2), (1.0, 0)):
        dataset = filtered(rows, quality=[_entry(advert_model, threshold=threshold)])
        assert _reasons(dataset).get("advertisement", 0) == dropped


def test_what_cannot_be_used_ends_the_step_before_it_starts(
    filtered: Filtered, advert_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "list.txt").write_text("co.uk\n")
    for params, error, message in (
        ({"safety": [_entry(advert_model, label="toxic")]}, UsageError, "has no label 'toxic'; its labels are advert"),
        ({"quality": [_entry(advert_model, sha256="0" * 64)]}, InputError, "expected 000"),
        ({"blocked_domains": [{"uri": str(tmp_path / "list.txt"), "sha256": digest(str(tmp_path / "list.txt"))}]},
         InputError, r"list\.txt:1: 'co\.uk' is a public suffix"),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            filtered(_pairs(), **params)
        assert not (tmp_path / "out").exists()


def test_scores_are_single_precision_and_rounded(filtered: Filtered, advert_model: Path) -> None:
    dataset = filtered(_pairs(), quality=[_entry(advert_model)])
    for row in dataset.read().to_pylist():
        score = json.loads(row["meta"])["scores"]["advertisement"]
        assert score == round(float(np.float32(score)), 4)
