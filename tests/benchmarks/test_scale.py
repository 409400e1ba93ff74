from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.scale import Assumptions

PROJECT = Path(__file__).resolve().parents[2]
GROWTH = {
    "sizes": [1000, 10_000, 100_000],
    "bytes_per_pair": 500,
    "stored_bytes_per_kept_pair": 400,
    "ingest": {"cpu_seconds": [1.0, 2.0, 11.0]},
    "filter": {"cpu_seconds": [1.0, 3.0, 21.0]},
}
EXTRACTION = {"trafilatura": {"pages_per_second": 1}, "embedmill ingest": {"pages_per_second": 100}}
SCORE = {"pairs_per_second": {"embedmill score": 50, "peer": 20}}


def test_core_hours_are_the_slope_times_the_length() -> None:
    hours = scale.cpu_hours(Assumptions(pairs=36e6, bytes_per_pair=1000), GROWTH, EXTRACTION)
    assert hours == pytest.approx({"extraction": 100, "ingest": 2.0, "filter": 4.0})


def test_gpu_hours_are_flops_over_what_a_card_does() -> None:
    plain = {"filtered": 1e6, "distinct": 0.5, "bytes_per_pair": 600, "bytes_per_token": 3}
    model = {"teacher_parameters": 1e8, "teacher_layers": 10, "teacher_width": 100}
    hours = scale.gpu_hours(Assumptions(**plain, **model, gpu_flops=1e14, utilisation=0.5))
    assert hours == pytest.approx(1e6 * 100 * (2e8 + 4 * 100 * 100 * 10) / 5e13 / 3600)
    assert scale.gpu_hours(Assumptions(bytes_per_pair=1e6)) == scale.gpu_hours(Assumptions(bytes_per_pair=2e6))


def test_every_table_has_its_place_in_the_document() -> None:
    made = scale.tables(Assumptions(), GROWTH, EXTRACTION, SCORE)
    document = (PROJECT / "docs" / "scale.md").read_text(encoding="utf-8")
    for name in made:
        assert f"<!-- {name} -->\n" in document
        assert f"<!-- /{name} -->" in document
    total = made["cost"].rows[-1]
    assert total[4] == pytest.approx(sum(row[4] for row in made["cost"].rows[:-1]))
    assert "near-duplicates" in document
