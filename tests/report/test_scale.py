from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.report.scale import count_scale, fixed_scale, linear_scale, log_scale

numbers = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


def labels(ticks: tuple[tuple[float, str], ...]) -> list[str]:
    return [label for _, label in ticks]


def test_ticks_are_round() -> None:
    assert labels(linear_scale([34.5, 53.1]).ticks) == ["35", "40", "45", "50"]
    assert labels(linear_scale([-0.21, 0.2]).ticks) == ["\u22120.2", "\u22120.1", "0.0", "0.1", "0.2"]
    assert labels(linear_scale([0.11, 0.52]).ticks) == ["0.1", "0.2", "0.3", "0.4", "0.5"]
    assert labels(count_scale(2596).ticks) == ["0", "1,000", "2,000", "3,000"]
    assert labels(count_scale(3).ticks) == ["0", "1", "2", "3"]
    assert labels(fixed_scale(0, 899, 4).ticks) == ["0", "250", "500", "750"]


@given(st.lists(numbers, min_size=1, max_size=8))
def test_every_value_lies_on_the_axis_with_air_around(values: list[float]) -> None:
    scale = linear_scale(values)
    assert all(0.01 <= scale.share(value) <= 0.99 for value in values)
    assert 2 <= len(scale.ticks) <= 9
    assert len(set(labels(scale.ticks))) == len(scale.ticks)


@given(st.integers(0, 10**9))
def test_counts_start_at_zero_and_end_at_a_round_number(most: int) -> None:
    scale = count_scale(most)
    assert scale.low == 0 and scale.high >= most and scale.high <= max(2 * most, 1)
    assert [value for value, _ in scale.ticks][-1] == scale.high


def test_a_single_value_gets_an_axis_around_it() -> None:
    assert linear_scale([50.0]).share(50.0) == pytest.approx(0.5)
    assert linear_scale([0.0]).share(0.0) == pytest.approx(0.5)
    assert log_scale([(4096.0, "1024")]).share(4096.0) == pytest.approx(0.5)


def test_ticks_of_a_logarithmic_axis_do_not_touch_and_keep_the_largest() -> None:
    sizes = [float(4 * dim) for dim in (256, 512, 768, 1024, 1280, 1536, 1792)]
    scale = log_scale([(size, str(size)) for size in sizes])
    at = [scale.share(value) for value, _ in scale.ticks]
    assert scale.ticks[-1][0] == sizes[-1]
    assert all(right - left >= 0.14 for left, right in pairwise(at))
    assert scale.share(sizes[0]) == pytest.approx(0.06) and scale.share(sizes[-1]) == pytest.approx(0.94)
