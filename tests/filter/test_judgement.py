from __future__ import annotations

import numpy as np

from components.core.records import record_table
from components.filter.contamination import Reference
from components.filter.judgement import Judgement, judge
from components.filter.params import FilterParams


def test_a_judgement_survives_its_file() -> None:
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
    read = Judgement.from_bytes(judged.to_bytes())
    for name in ("ids", "kinds", "ranks", "symmetric", "left", "right", "bands", "contaminated"):
        assert np.array_equal(getattr(read, name), getattr(judged, name)), name
    assert (read.sources, read.languages, read.evidence) == (judged.sources, judged.languages, judged.evidence)
    assert read.verdict.details == judged.verdict.details
    assert read.verdict.codes.tolist() == judged.verdict.codes.tolist()
    assert read.bands[:, 1].tolist() == [0] * 25  # dropped rows have none


def test_an_empty_shard_is_judged() -> None:
    judged = judge(record_table([]), FilterParams(), Reference.of(["read a file"], 0.8))
    assert Judgement.from_bytes(judged.to_bytes()).bands.shape == (25, 0)
