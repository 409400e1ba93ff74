from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import measure


def test_repeats_are_interleaved_and_their_median_counts() -> None:
    order: list[str] = []

    def contestant(name: str, values: list[float]):
        def once() -> float:
            order.append(name)
            return values.pop(0)

        return once

    taken = measure.interleaved({"a": contestant("a", [1.0, 9.0, 2.0]), "b": contestant("b", [5.0, 4.0, 6.0])}, 3)
    assert order == ["a", "b"] * 3
    assert taken == {"a": 2.0, "b": 5.0}


def test_tables_are_markdown() -> None:
    table = measure.Table("Rates", ("", "rows/s"), [["ours", 12345.6], ["theirs", None], ["share", 0.5]], "One core.")
    assert table.markdown() == (
        "**Rates**\n\n|  | rows/s |\n| --- | ---: |\n| ours | 12,346 |\n| theirs | – |\n| share | 0.500 |\n\nOne core."
    )


def test_a_block_is_replaced_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n")
    measure.replace_block(page, "x", r"new \1")
    measure.replace_block(page, "x", r"new \1")
    assert page.read_text() == "a\n<!-- x -->\nnew \\1\n<!-- /x -->\nb\n"
    with pytest.raises(SystemExit, match="no markers"):
        measure.replace_block(page, "y", "")
