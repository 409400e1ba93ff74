from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.report.scale import fixed_scale, linear_scale, log_scale

numbers = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


def labels(ticks: tuple[tuple[float, str], ...]) -> list[str]:
    return [label for _, label in ticks]


def test_ticks_are_round_and_enclose_the_data() -> None:
    assert labels(linear_scale([34.5, 53.1]).ticks) == ["30", "35", "40", "45", "50", "55"]
    assert labels(linear_scale([0.11, 0.52], 4, zero=True).ticks) == ["0.0", "0.2", "0.4", "0.6"]
    assert labels(linear_scale([0, 2596], 4, zero=True).ticks) == ["0", "1,000", "2,000", "3,000"]
    assert labels(fixed_scale(0, 899, 4).ticks) == ["0", "250", "500", "750"]


@given(st.lists(numbers, min_size=1, max_size=8), st.booleans())
def test_every_value_lies_on_the_axis(values: list[float], zero: bool) -> None:
    scale = linear_scale(values, zero=zero)
    assert all(-1e-6 <= scale.share(value) <= 1 + 1e-6 for value in values)
    assert 2 <= len(scale.ticks) <= 8
    assert len(set(labels(scale.ticks))) == len(scale.ticks)
    if zero:
        assert any(abs(value) < 1e-12 for value, _ in scale.ticks)


def test_a_single_value_gets_an_axis_around_it() -> None:
    assert linear_scale([50.0]).share(50.0) == pytest.approx(0.5, abs=0.3)
    assert linear_scale([0.0], zero=True).high > 0
    assert log_scale([(4096.0, "1024")]).share(4096.0) == pytest.approx(0.5)


def test_ticks_of_a_logarithmic_axis_do_not_touch_and_keep_the_largest() -> None:
    sizes = [float(4 * dim) for dim in (256, 512, 768, 1024, 1280, 1536, 1792)]
    scale = log_scale([(size, str(size)) for size in sizes])
    at = [scale.share(value) for value, _ in scale.ticks]
    assert scale.ticks[-1][0] == sizes[-1]
    assert all(right - left >= 0.14 for left, right in pairwise(at))
    assert scale.share(sizes[0]) == pytest.approx(0.06) and scale.share(sizes[-1]) == pytest.approx(0.94)
