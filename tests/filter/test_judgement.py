from __future__ import annotations

from pathlib import Path

import numpy as np

from components.core.records import record_table
from components.filter.contamination import Reference
from components.filter.judgement import judge, read_judgement
from components.filter.params import FilterParams


def test_a_judgement_survives_its_file(tmp_path: Path) -> None:
    rows = [
        {
            "task": "retri_contrast",
            "text": "read a file",
            "text_pos": "open it",
            "source": "a",
            "meta": {"form": "named"},
        },
        {"task": "cosent", "text": "x", "text_pair": "怎么还款", "label": 1.0, "source": "b"},
    ]
    judged = judge(record_table(rows), FilterParams(), Reference.of(["read a file"], 0.8))
    (tmp_path / "judged").write_bytes(judged.to_bytes())
    read = read_judgement(str(tmp_path / "judged"), ("rank", "left", "source", "detail", "bands"))
    bands = [f"band_{band}" for band in range(25)]
    assert set(read.column_names) == {"rank", "left", "source", "detail", *bands}
    assert read["rank"].to_pylist() == judged.ranks.tolist()
    assert read["left"].to_pylist() == judged.left.tolist()
    assert read["source"].to_pylist() == judged.sources
    assert read["detail"].to_pylist() == judged.verdict.details
    assert np.array_equal([read[name] for name in bands], judged.bands)
    assert judged.bands[:, 1].tolist() == [0] * 25  # dropped rows have none


def test_an_empty_shard_is_judged(tmp_path: Path) -> None:
    judged = judge(record_table([]), FilterParams(), Reference.of(["read a file"], 0.8))
    (tmp_path / "judged").write_bytes(judged.to_bytes())
    assert len(read_judgement(str(tmp_path / "judged"), ("code", "bands"))) == 0
