from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from components.core.errors import InputError
from components.core.settings import RunParams
from components.core.step import Context
from components.report.evidence import Evidence, read_evidence
from components.report.picture import picture
from components.report.pipeline import page, run
from tests.report.evidence_files import NASTY, ledger, quality_rows, version, write_csv, write_dataset, write_json

PROJECT = Path(__file__).resolve().parents[2]
QUALITY = ("system", "task", "dim", "metric", "value", "bytes_per_vector")
LOSSES = ("step", "task", "loss", "lr")


def parse(html: bytes) -> ElementTree.Element:
    """The page as XML, which it is but for its first line."""
    return ElementTree.fromstring(html.decode().partition("\n")[2])


def text_of(root: ElementTree.Element) -> str:
    return " ".join("".join(one.itertext()) for one in root.iter("body"))


def texts(root: ElementTree.Element, name: str) -> list[str]:
    return ["".join(one.itertext()) for one in root.iter() if name in one.get("class", "").split()]


def charts(root: ElementTree.Element) -> list[str]:
    return [str(one.get("id")) for one in root.iter("svg") if one.get("class") == "chart"]


def test_the_page_tells_the_whole_run(evidence: Evidence) -> None:
    root = parse(page(evidence))
    text = text_of(root)
    assert charts(root) == [
        "headline", "dimensions-0", "dimensions-1", "dimensions-2", "funnel", "scores-0",
        "loss-pretrain-retri-contrast",
        "loss-finetune-cls-contrast", "loss-finetune-cosent", "loss-finetune-retri-contrast", "dev-finetune",
        "negatives-scores", "negatives-replaced",
    ]  # fmt: skip
    assert "embedmill version 3" in text
    assert texts(root, "pill")[:2] == ["Champion", "Gate passed"]
    assert texts(root, "score") == ["53.1nDCG@10 on pydoc, 1,024 dimensions"]
    assert "pretrained only +1.5, BM25 +8.3, wordllama +18.8 points" in text
    assert "Of 97,240 rows read for training, 74,042 (76.1 %) were left. 5,420 other rows are held out" in text
    assert {"near duplicate", "not python (quarantined)", "2 other reasons"} <= set(texts(root, "bar-label"))
    assert texts(root, "threshold-label") == ["threshold 0.14"]
    assert "6 measurements. The best after step 200: retrieval, nDCG@10 69.2, similarity, Spearman" in text
    assert texts(root, "note") == []


def test_every_chart_is_named_described_and_has_its_numbers(evidence: Evidence) -> None:
    root = parse(page(evidence))
    identifiers = [one.get("id") for one in root.iter() if one.get("id")]
    assert len(identifiers) == len(set(identifiers))
    for figure in root.iter("figure"):
        for chart in (one for one in figure.iter("svg") if one.get("class") == "chart"):
            for name in str(chart.get("aria-labelledby")).split():
                assert next(one for one in chart if one.get("id") == name).text
            assert chart.get("id") == "headline" or list(figure.iter("details"))
    assert sum(len(list(one.iter("tr"))) for one in root.iter("details")) > 100


def test_hostile_text_stays_text(evidence: Evidence) -> None:
    html = page(evidence)
    root = parse(html)
    assert not list(root.iter("script"))
    expected = NASTY.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")
    assert expected in texts(root, "query")
    assert "</title></svg>" + expected in texts(root, "passage")
    assert b"<script" not in html and b" on" + b"error=" not in html


def test_nothing_remote_is_named(evidence: Evidence) -> None:
    root = parse(page(evidence))
    links = [
        value for one in root.iter() for key, value in one.attrib.items() if key.rpartition("}")[2] in ("href", "src")
    ]
    assert all(link.startswith(("#", "data:")) for link in links)
    meta = next(one for one in root.iter("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert str(meta.get("content")).startswith("default-src 'none'; style-src 'sha256-")


def test_the_same_run_gives_the_same_bytes_under_any_hash_seed(inputs: dict[str, str], tmp_path: Path) -> None:
    script = (
        "import json, sys\nfrom components.report.evidence import read_evidence\n"
        "from components.report.pipeline import page\nfrom components.report.picture import picture\n"
        "evidence = read_evidence(json.loads(sys.argv[1]))\n"
        "sys.stdout.buffer.write(page(evidence) + picture(evidence))\n"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", script, json.dumps(inputs)],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONHASHSEED": seed}, capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert made[0] == made[1] and len(made[0]) > 50_000
    assert str(tmp_path).encode() not in made[0]


def test_the_step_writes_the_page_and_the_picture_only_where_asked(inputs: dict[str, str], tmp_path: Path) -> None:
    target, drawn = tmp_path / "out" / "report.html", tmp_path / "docs" / "result.svg"
    run(Context("report", RunParams(), {}, inputs, {"page": str(target)}))
    assert target.read_bytes().startswith(b"<!doctype html>") and not drawn.exists()
    run(Context("report", RunParams(), {}, inputs, {"page": str(target), "picture": str(drawn)}))
    root = ElementTree.fromstring(drawn.read_text(encoding="utf-8"))
    words = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"nDCG@10 on pydoc, by size of the vector", "53.1", "BM25 44.8", "1024", "4 KiB"} <= set(words)


def nothing_measured(inputs: dict[str, str]) -> None:
    write_csv(Path(inputs["quality"]), QUALITY, [])
    write_json(Path(inputs["examples"]), [])


def only_similarity(inputs: dict[str, str]) -> None:
    write_csv(Path(inputs["quality"]), QUALITY, [row for row in quality_rows() if row[1] == "pydoc_structure"])
    write_json(Path(inputs["examples"]), [])


def one_dimension(inputs: dict[str, str]) -> None:
    write_csv(Path(inputs["quality"]), QUALITY, [row for row in quality_rows() if row[2] in ("", 256)])


def only_the_model(inputs: dict[str, str]) -> None:
    write_csv(Path(inputs["quality"]), QUALITY, [row for row in quality_rows() if row[0] == "model"])


def no_losses(inputs: dict[str, str]) -> None:
    write_csv(Path(inputs["pretrain_loss"]), LOSSES, [])
    Path(inputs["finetune_loss"]).write_bytes(b"")


def one_measurement(inputs: dict[str, str]) -> None:
    lines = Path(inputs["finetune_dev"]).read_text().splitlines()
    Path(inputs["finetune_dev"]).write_text("\n".join(lines[:2]))


def no_dev(inputs: dict[str, str]) -> None:
    Path(inputs["finetune_dev"]).write_text("step,task,metric,value,best\n")


def no_scores(inputs: dict[str, str]) -> None:
    write_csv(Path(inputs["histogram"]), ("teacher", "low", "high", "rows", "threshold"), [])


def no_negatives(inputs: dict[str, str]) -> None:
    Path(inputs["negatives"]).write_text("step,kind,positive,negative,replaced,left\n")


def standard_negatives(inputs: dict[str, str]) -> None:
    lines = Path(inputs["negatives"]).read_text().replace("dynamic", "standard").splitlines()
    kept = [line for line in lines if line.startswith("step") or line.split(",")[4] == "0"]
    Path(inputs["negatives"]).write_text("\n".join(kept))


def no_rows(inputs: dict[str, str]) -> None:
    for name in ("ingest", "heldout", "filter", "score"):
        (Path(inputs[name]) / "manifest.json").unlink()
        Path(inputs[name]).rmdir()
        write_dataset(Path(inputs[name]), name, ledger({}))


@pytest.mark.parametrize(
    ("change", "said", "gone"),
    [
        (nothing_measured, "Nothing was measured", "dimensions-0"),
        (only_similarity, "There are no examples: the suite has no retrieval task", "dimensions-1"),
        (one_dimension, "Only one dimension was measured", None),
        (only_the_model, "No baseline was measured.", None),
        (no_losses, "No loss was logged: pretrain was not run or took no step.", "loss-pretrain-retri-contrast"),
        (one_measurement, "1 measurement.", None),
        (no_dev, "How training went", "dev-finetune"),
        (no_scores, "No pair was scored", "scores-0"),
        (no_negatives, "No hard negatives were mined.", "negatives-scores"),
        (standard_negatives, "negative, standard mining: 0.6", "negatives-replaced"),
        (no_rows, "Ingest read no rows at all.", "funnel"),
    ],
)
def test_what_is_missing_is_said(
    inputs: dict[str, str], change: Callable[[dict[str, str]], None], said: str, gone: str | None
) -> None:
    change(inputs)
    evidence = read_evidence(inputs)
    root = parse(page(evidence))
    assert said in text_of(root)
    assert gone not in charts(root)
    ElementTree.fromstring(picture(evidence))


def test_a_refused_model_shows_the_broken_rule_and_who_is_champion(inputs: dict[str, str]) -> None:
    rules = [{"held": True, "text": "one"}, {"held": False, "text": "pydoc ndcg_at_10 40.00, bm25 44.80"}]
    write_json(Path(inputs["version"]), version(version=4, gate="failed", rules=rules))
    root = parse(page(read_evidence(inputs)))
    assert texts(root, "pill")[:2] == ["Gate failed", "Champion: version 3"]
    assert "Broken: pydoc ndcg_at_10 40.00, bm25 44.80" in text_of(root)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("quality", "system,task,dim,value\n", "no column 'metric'; found system, task, dim, value"),
        ("pretrain_loss", "step,task,loss,lr\n1,a,0.5,0.1\n2,a,high,0.1\n", "line 3: could not convert"),
        ("finetune_dev", "step,task,metric,value,best\n3,a,mean,1.5,yes\n", "line 2: invalid literal"),
        ("negatives", "step,kind,positive,negative,replaced,left\n1,dynamic,0.5,x,0,1\n", "line 2: could not convert"),
        ("version", "[1]", "expected a JSON object, found list"),
        ("version", "{", "not valid JSON"),
        ("version", "{}", "not a registered version (KeyError: 'champion_version')"),
        ("examples", '[{"query": "a"}]', "not a list of examples (KeyError: 'task')"),
    ],
)
def test_a_malformed_file_is_named(inputs: dict[str, str], name: str, content: str, said: str) -> None:
    Path(inputs[name]).write_text(content)
    with pytest.raises(InputError) as caught:
        read_evidence(inputs)
    assert inputs[name] in str(caught.value) and said in str(caught.value)


def test_a_long_log_is_averaged_and_a_value_that_is_not_finite_left_out(inputs: dict[str, str]) -> None:
    rows = [(step, "cosent", "nan" if step == 7 else step % 2, 0.1) for step in range(1, 1001)]
    write_csv(Path(inputs["finetune_loss"]), LOSSES, rows)
    root = parse(page(read_evidence(inputs)))
    chart = next(one for one in root.iter("svg") if one.get("id") == "loss-finetune-cosent")
    points = str(next(chart.iter("polyline")).get("points")).split()
    assert len(points) == 111
    assert "mean of 9 logged steps" in text_of(root)
    assert any("band" in one.get("class", "") for one in chart.iter("path"))
