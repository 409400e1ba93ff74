from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from components.report.charts import Bar, Bin, Frame, Point, Series, bar_chart, histogram, line_chart, spread_labels
from components.report.markup import Markup
from components.report.scale import count_scale, fixed_scale


def parse(drawing: Markup) -> ElementTree.Element:
    return ElementTree.fromstring(f"<svg>{drawing}</svg>")


def by_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [one for one in root.iter() if name in one.get("class", "").split()]


def test_bins_below_the_threshold_are_set_apart_and_empty_ones_left_out() -> None:
    bins = [Bin(0.0, 0.1, 5), Bin(0.1, 0.2, 0), Bin(0.2, 0.3, 20)]
    frame = Frame(200, fixed_scale(0.0, 0.3), count_scale(20), "cosine", "pairs")
    root = parse(histogram(bins, 0.1, frame))
    lost, kept = by_class(root, "lost"), by_class(root, "kept")
    assert [one[0].text for one in lost] == ["0.00 to 0.10: 5 rows"]
    assert [one[0].text for one in kept] == ["0.20 to 0.30: 20 rows"]
    assert float(kept[0].get("height", 0)) == 4 * float(lost[0].get("height", 0))
    assert by_class(root, "threshold")[0].get("x1") == "33.333%"


def test_bars_are_placed_by_their_ends_and_losses_have_an_edge() -> None:
    root = parse(bar_chart([Bar("read", "100", 0, 100, "strong"), Bar("short", "1", 99, 100, "lost")], 100))
    assert [(one.get("x"), one.get("width")) for one in by_class(root, "bar")] == [("0%", "100%"), ("99%", "1%")]
    assert [one.get("x1") for one in by_class(root, "edge")] == ["100%"]


def test_a_curve_runs_through_its_points_and_a_level_says_its_value() -> None:
    curve = Series("model", 0, (Point(0, 0, "low"), Point(10, 100, "high")), labels=True)
    level = Series("BM25", 1, (Point(0, 50),), level=True)
    frame = Frame(174, fixed_scale(0, 10), fixed_scale(0, 100), "bytes", "nDCG")
    root = parse(line_chart([curve, level], frame))
    assert next(root.iter("polyline")).get("points") == "0,130 1000,30"
    assert [one.text for one in by_class(root, "level")] == ["BM25 50.0"]
    assert [one.text for one in by_class(root, "value")] == ["0.0", "100.0"]
    assert {"low", "high", "BM25"} <= {one.text for one in root.iter("title")}


def test_a_value_is_written_below_its_point_where_another_curve_runs_close_above() -> None:
    model = Series("model", 0, (Point(0, 50), Point(10, 50)), labels=True)
    other = Series("other", 1, (Point(0, 65), Point(10, 90)))
    root = parse(line_chart([model, other], Frame(174, fixed_scale(0, 10), fixed_scale(0, 100), "bytes", "nDCG")))
    assert [float(one.get("y", 0)) - 80 for one in by_class(root, "value")] == [20, -11]


@given(st.lists(st.floats(0, 300), max_size=7))
def test_labels_of_levels_never_touch(wanted: list[float]) -> None:
    placed = spread_labels(wanted, 15)
    ordered = sorted(placed)
    assert all(right - left >= 15 - 1e-6 for left, right in pairwise(ordered))
    order = sorted(range(len(wanted)), key=lambda index: (wanted[index], index))
    assert [placed[index] for index in order] == ordered


def test_a_level_is_named_at_the_end_where_no_curve_is_near() -> None:
    curve = Series("model", 0, (Point(0, 20), Point(10, 80)))
    low = Series("BM25", 1, (Point(0, 22),), level=True)
    high = Series("a system with a long name", 2, (Point(0, 78),), level=True)
    root = parse(line_chart([curve, low, high], Frame(174, fixed_scale(0, 10), fixed_scale(0, 100), "bytes", "nDCG")))
    placed = {one.text: one.get("text-anchor") for one in by_class(root, "level")}
    assert placed == {"BM25 22.0": "end", "78.0": "start"}
