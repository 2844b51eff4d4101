from __future__ import annotations

import numpy as np
import pytest

from tasks.rca.metric.baro import baro
from tests.rca.views import view_of

RNG = np.random.default_rng(0)


def test_known_answer() -> None:
    view = view_of(
        {
            ("a", "cpu"): [1, 2, 3, 4, 5, 9],  # median 3, interquartile range 2: 3
            ("b", "cpu"): [10, 20, 30, 40, 50, -70],  # 30, 20: 5 below
        },
        normal_rows=5,
    )
    assert dict(baro(view, RNG).services) == pytest.approx({"a": 3, "b": 5})


def test_one_outlier_in_the_normal_window_does_not_hide_the_fault() -> None:
    view = view_of({("a", "x"): [1, 2, 3, 4, 1000, 13]}, normal_rows=5)
    assert dict(baro(view, RNG).services) == pytest.approx({"a": 5})


def test_a_mostly_constant_column_in_bytes_does_not_win_by_its_unit() -> None:
    """Interquartile range 0 must not leave a score in raw units."""
    spikes = [0.0] * 9 + [4e6] + [4e6]
    view = view_of({("spiky", "memory"): spikes, ("faulty", "cpu"): [0.1, 0.2] * 5 + [0.9]}, normal_rows=10)
    scores = dict(baro(view, RNG).services)
    assert scores["faulty"] > scores["spiky"]
