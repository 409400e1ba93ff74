"""The ledger command as a person and a program use it: through the command line, on committed datasets."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from components.core import storage
from components.core.build import ShardOutput, ShardTask, build_dataset
from components.core.manifest import Dataset
from components.core.records import record_table, reject_records, rejected_table
from tests.fixtures.seaweed import S3Bucket

Embedmill = Callable[..., CompletedProcess[str]]


def row(number: int, source: str, passage: str = "the passage of it") -> dict[str, Any]:
    return {"task": "retri_contrast", "text": f"query {number}", "text_pos": passage, "source": source}


def write(
    uri: object,
    step: str,
    kept: dict[str, int],
    lost: dict[tuple[str, str], int],
    shards: int = 3,
    stats: dict[str, float] | None = None,
) -> Dataset:
    """A dataset with this many rows kept by source, and dropped by source and reason, dealt over its shards."""
    rows = [(row(number, source), None) for source, count in kept.items() for number in range(count)]
    for (source, reason), count in lost.items():
        rows += [(row(number, source, f"{reason} {number}"), reason) for number in range(count)]

    def work(task: ShardTask) -> list[ShardOutput]:
        good = [each for each, reason in task.payload if reason is None]
        bad = [(each, reason) for each, reason in task.payload if reason is not None]
        rejected = reject_records(record_table([each for each, _ in bad]), [reason for _, reason in bad])
        return [
            ShardOutput(record_table(good), rejected, Counter(each["source"] for each, _ in task.payload), stats or {})
        ]

    tasks = [ShardTask(f"{index:05d}", str(index), rows[index::shards]) for index in range(shards)]
    return build_dataset(str(uri), step, tasks, work, "test")


@pytest.fixture
def chain_data(tmp_path: Path) -> Path:
    write(tmp_path / "data/ingest", "ingest", {"faq": 90, "web": 60}, {})
    lost = {("faq", "near_duplicate"): 20, ("web", "mojibake"): 13, ("web", "language"): 7}
    write(tmp_path / "data/filter", "filter", {"faq": 70, "web": 40}, lost)
    write(tmp_path / "data/score", "score", {"faq": 69, "web": 40}, {("faq", "mismatch"): 1})
    return tmp_path


def cells(output: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]


def test_the_funnel_of_the_chain_accounts_for_every_row(embedmill: Embedmill, chain_data: Path) -> None:
    shown = embedmill("ledger", "show")
    assert shown.returncode == 0, shown.stderr
    assert cells(shown.stdout) == [
        ["stage", "rows in", "rows out", "kept", "lost", "of rows in", "reason"],
        ["ingest", "150", "150", "100.0 %", "0", "0.0 %"],
        ["filter", "150", "110", "73.3 %", "40", "26.7 %"],
        ["language", "150", "143", "95.3 %", "7", "4.7 %", "language"],
        ["heuristics", "143", "130", "90.9 %", "13", "8.7 %", "mojibake"],
        ["near_duplicates", "130", "110", "84.6 %", "20", "13.3 %", "near_duplicate"],
        ["score", "110", "109", "99.1 %", "1", "0.9 %"],
        ["1", "0.9 %", "mismatch"],
    ]
    assert "\x1b" not in shown.stdout


def test_rows_that_classifiers_dropped_stand_in_the_stages_of_these(embedmill: Embedmill, tmp_path: Path) -> None:
    lost = {
        ("faq", reason): rows
        for reason, rows in (("empty", 1), ("toxicity", 3), ("fluency", 2), ("exact_duplicate", 4))
    }
    write(tmp_path / "filtered", "filter", {"faq": 10}, lost, stats={"scored.safety.toxicity": 6})
    shown = cells(embedmill("ledger", "show", "filtered").stdout)[2:]
    assert [line[:3] for line in shown if len(line) == 7] == [
        ["normalise", "20", "19"],
        ["safety", "19", "16"],
        ["quality", "16", "14"],
        ["exact_duplicates", "14", "10"],
    ]
    assert [line[-1] for line in shown] == ["empty", "toxicity", "fluency", "exact_duplicate"]


def test_columns_are_aligned(embedmill: Embedmill, chain_data: Path) -> None:
    header, *lines = embedmill("ledger", "show").stdout.splitlines()
    end = header.index("rows in") + len("rows in")
    assert {len(line[:end].rstrip()) for line in lines if line[:1] != " "} == {end}


def test_one_line_a_source_tells_what_each_dataset_kept_and_why_not_the_rest(
    embedmill: Embedmill, chain_data: Path
) -> None:
    write(chain_data / "faq_only", "score", {"faq": 69}, {("faq", "mismatch"): 1})
    shown = cells(embedmill("ledger", "show", "ingest", "filter", "faq_only", "--by-source").stdout)
    assert shown == [
        ["source", "rows in", "ingest", "filter", "score", "kept", "lost for"],
        ["faq", "90", "90", "70", "69", "76.7 %", "near_duplicate 20, mismatch 1"],
        ["web", "60", "60", "40", "–", "66.7 %", "mojibake 13, language 7"],
    ]
    assert cells(embedmill("ledger", "show", "ingest", "filter", "--by-source", "--source", "web").stdout) == [
        ["source", "rows in", "ingest", "filter", "kept", "lost for"],
        ["web", "60", "60", "40", "66.7 %", "mojibake 13, language 7"],
    ]


def test_a_line_of_a_source_names_its_three_main_reasons(embedmill: Embedmill, tmp_path: Path) -> None:
    lost = {("faq", reason): rows for reason, rows in (("urls", 2), ("symbols", 2), ("empty", 5), ("digits", 1))}
    write(tmp_path / "filtered", "filter", {"faq": 10}, lost)
    shown = cells(embedmill("ledger", "show", "filtered", "--by-source").stdout)
    assert shown[1:] == [["faq", "20", "10", "50.0 %", "empty 5, symbols 2, urls 2, 1 more"]]


def test_the_funnel_of_one_source_has_only_its_rows(embedmill: Embedmill, chain_data: Path) -> None:
    shown = cells(embedmill("ledger", "show", "filter", "--source", "web").stdout)
    assert shown[0] == ["source web"]
    assert ["filter", "60", "40", "66.7 %", "20", "33.3 %"] in shown
    assert not any("near_duplicate" in line for line in shown)
    every = json.loads(embedmill("ledger", "show", "filter", "--by-source", "--json").stdout)
    assert [(each["source"], each["rows_in"], each["rows_out"]) for each in every] == [("faq", 90, 70), ("web", 60, 40)]


def test_json_says_the_same_to_a_program(embedmill: Embedmill, chain_data: Path) -> None:
    whole = json.loads(embedmill("ledger", "show", "--json").stdout)
    assert [(each["step"], each["rows_in"], each["rows_out"]) for each in whole] == [
        ("ingest", 150, 150),
        ("filter", 150, 110),
        ("score", 110, 109),
    ]
    for each in whole:
        lost = sum(loss["rows"] for stage in each["stages"] for loss in stage["lost"])
        assert each["rows_in"] == each["rows_out"] + lost


def test_quarantined_rows_are_told_from_dropped_ones(embedmill: Embedmill, tmp_path: Path) -> None:
    def work(task: ShardTask) -> list[ShardOutput]:
        bad = {
            "kind": "quarantined",
            "reason": "not_json",
            "source": "faq",
            "offset": 3,
            "record": '{"text": "\x1b[2Jhal',
        }
        return [ShardOutput(record_table([row(0, "faq")]), rejected_table([bad]), {"faq": 2})]

    build_dataset(str(tmp_path / "in"), "ingest", [ShardTask("00000", "", None)], work, "test")
    assert cells(embedmill("ledger", "show", "in").stdout)[-1] == ["1", "50.0 %", "not_json (quarantined)"]
    sample = embedmill("ledger", "sample", "not_json", "in").stdout
    assert "faq, row 3" in sample and "\\x1b[2Jhal" in sample and "\x1b" not in sample


def test_a_sample_is_drawn_from_all_rows_of_a_reason_and_always_the_same(
    embedmill: Embedmill, chain_data: Path
) -> None:
    first = embedmill("ledger", "sample", "near_duplicate", "--rows", 6, "--json").stdout
    rows = json.loads(first)
    passages = [each["record"]["text_pos"] for each in rows]
    assert len(set(passages)) == 6 and all(passage.startswith("near_duplicate ") for passage in passages)
    assert {each["source"] for each in rows} == {"faq"} and {each["step"] for each in rows} == {"filter"}
    assert embedmill("ledger", "sample", "near_duplicate", "--rows", 6, "--json").stdout == first
    numbers = sorted(int(passage.split()[1]) for passage in passages)
    assert numbers != list(range(6)) and len({number % 3 for number in numbers}) > 1  # not the first, not of one shard
    every = json.loads(embedmill("ledger", "sample", "near_duplicate", "--rows", 50, "--json").stdout)
    assert sorted(int(each["record"]["text_pos"].split()[1]) for each in every) == list(range(20))


def test_a_sample_reads_well_on_a_terminal(embedmill: Embedmill, chain_data: Path) -> None:
    lines = embedmill("ledger", "sample", "mojibake", "filter", "--rows", 1, "--source", "web").stdout.splitlines()
    assert lines[0] == "filter: mojibake, 1 of 13 rows"
    assert lines[1] == "  web"
    assert re.fullmatch(r"    text +query \d+", lines[2])
    assert re.fullmatch(r"    text_pos +mojibake \d+", lines[3])


def test_a_record_that_was_cut_is_still_told_by_its_fields(embedmill: Embedmill, tmp_path: Path) -> None:
    def work(task: ShardTask) -> list[ShardOutput]:
        long = record_table([row(0, "faq", passage='a "word" of it\n' * 400)])
        return [ShardOutput(record_table([]), reject_records(long, ["repetition"]), {"faq": 1})]

    build_dataset(str(tmp_path / "out"), "filter", [ShardTask("00000", "", None)], work, "test")
    [found] = json.loads(embedmill("ledger", "sample", "repetition", "out", "--json").stdout)
    assert found["record"]["text"] == "query 0"
    assert found["record"]["text_pos"].startswith('a "word" of it\n') and found["record"]["text_pos"].endswith("…")


def test_what_there_is_stands_in_the_error(embedmill: Embedmill, chain_data: Path) -> None:
    unknown = embedmill("ledger", "sample", "toxicity")
    assert unknown.returncode == 2
    assert unknown.stderr == (
        "embedmill: no row was lost for 'toxicity' in data/ingest, data/filter, data/score; "
        "reasons: language, mismatch, mojibake, near_duplicate\n"
    )
    nowhere = embedmill("ledger", "show", "data/filtre")
    assert nowhere.returncode == 3
    assert nowhere.stderr.startswith("embedmill: data/filtre: no manifest.json, so this is no finished dataset; ")
    assert nowhere.stderr.endswith("ingest (data/ingest), filter (data/filter), score (data/score)\n")
    source = embedmill("ledger", "show", "--source", "wob")
    assert (source.returncode, source.stderr) == (2, "embedmill: no rows of source 'wob'; there are faq, web\n")


def test_before_the_first_run_it_says_what_to_do(embedmill: Embedmill) -> None:
    shown = embedmill("ledger", "show")
    assert shown.returncode == 3
    assert shown.stderr.endswith("run `embedmill run` or name one\n") and "data/filter" in shown.stderr


def test_counting_reads_no_rows(embedmill: Embedmill, chain_data: Path) -> None:
    for path in (*chain_data.glob("data/*/shards/*"), *chain_data.glob("data/*/rejected/*")):
        path.unlink()
    assert "near_duplicate" in embedmill("ledger", "show").stdout


def test_datasets_in_s3(embedmill: Embedmill, s3: S3Bucket) -> None:
    uri = storage.join(s3.uri, "filtered")
    write(uri, "filter", {"faq": 5}, {("faq", "urls"): 4})
    shown = embedmill("ledger", "show", uri, env=s3.env)
    assert cells(shown.stdout)[1][:3] == ["filter", "9", "5"], shown.stderr
    [one] = json.loads(embedmill("ledger", "sample", "urls", uri, "--rows", 1, "--json", env=s3.env).stdout)
    assert (one["dataset"], one["reason"]) == (uri, "urls")
