from __future__ import annotations

import numpy as np
import pytest

from tasks.rca.metric.nsigma import nsigma
from tests.rca.views import view_of

RNG = np.random.default_rng(0)


def test_known_answer() -> None:
    view = view_of(
        {
            ("a", "cpu"): [0, 2, 0, 2, 1, 5],  # mean 1, deviation 1: 4
            ("a", "memory"): [0, 2, 0, 2, 1, 2],  # 1
            ("b", "cpu"): [10, 30, 10, 30, -30, 20],  # mean 20, deviation 10: 5 below
        },
        normal_rows=4,
    )
    ranking = nsigma(view, RNG)
    assert dict(ranking.services) == pytest.approx({"a": 4, "b": 5})
    assert {(s, m): score for s, m, score in ranking.metrics} == pytest.approx(
        {("a", "cpu"): 4, ("a", "memory"): 1, ("b", "cpu"): 5}
    )


def test_only_rises_if_asked() -> None:
    view = view_of({("a", "x"): [0, 2, 0, 2, 1, 5], ("b", "x"): [0, 2, 0, 2, -9, 1]}, normal_rows=4)
    assert dict(nsigma(view, RNG, direction="up").services) == pytest.approx({"a": 4, "b": 0})


def test_a_counter_that_is_zero_before_the_fault_is_not_discarded() -> None:
    view = view_of({("a", "errors"): [0, 0, 0, 0, 7, 7], ("b", "errors"): [0] * 6}, normal_rows=4)
    assert dict(nsigma(view, RNG).services) == pytest.approx({"a": 2, "b": 0})
