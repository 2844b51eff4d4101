import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.html.rounding import json_numbers, significant


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0.123456, 0.1235), (1234.56, 1235), (1234567890.0, 1235000000), (-0.00098765, -0.0009876), (0.0, 0)],
)
def test_four_significant_digits(value: float, rounded: float) -> None:
    assert json_numbers([value]) == pytest.approx([rounded], rel=1e-3)
    assert json.dumps(json_numbers([value])[0]) == json.dumps(rounded)


def test_missing_and_infinite_values_become_null() -> None:
    assert json_numbers([math.nan, math.inf, -math.inf, 1.0]) == [None, None, None, 1]


@given(st.floats(1e-12, 1e15) | st.floats(-1e15, -1e-12))
def test_rounding_is_close_and_short(value: float) -> None:
    rounded = float(significant(value))
    assert rounded == pytest.approx(value, rel=5.1e-4)
    assert len(np.format_float_scientific(rounded, trim="-").split("e")[0].lstrip("-")) <= 5


@given(st.lists(st.floats(-1e9, 1e9), max_size=20))
def test_rounding_twice_changes_nothing(values: list[float]) -> None:
    once = significant(values)
    np.testing.assert_array_equal(significant(once), once)
