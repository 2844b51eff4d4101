from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tasks.rca.features.panel import build_panel, fill_gaps
from tasks.rca.method import MethodError
from tests.rca.views import view_of

NAN = float("nan")


def test_columns_are_filled_and_standardised() -> None:
    panel = build_panel(view_of({("a", "x"): [NAN, 1, NAN, 3, 3, NAN]}, normal_rows=3))
    expected = np.array([1, 1, 1, 3, 3, 3], dtype=float)
    assert panel.values[:, 0] == pytest.approx((expected - 2) / 1)
    assert panel.abnormal.tolist() == [False] * 3 + [True] * 3


def test_constant_empty_and_rounding_noise_columns_are_left_out() -> None:
    columns = {("a", "x"): [1, 2, 3, 4], ("a", "c"): [5] * 4, ("a", "n"): [NAN] * 4, ("a", "r"): [1, 1 + 1e-15, 1, 1]}
    assert build_panel(view_of(columns, normal_rows=2)).columns == (("a", "x"),)


def test_the_order_does_not_depend_on_names_or_units() -> None:
    rng = np.random.default_rng(0)
    data = {(f"s{i}", "m"): rng.normal(size=20).tolist() for i in range(6)}
    view = view_of(data, normal_rows=10)
    shuffled = replace(view, metrics=view.metrics.iloc[:, rng.permutation(6)] * rng.uniform(1e-9, 1e9, 6))
    first, second = build_panel(view), build_panel(shuffled)
    assert first.columns == second.columns
    np.testing.assert_allclose(first.values, second.values, atol=1e-9)


def test_too_few_rows_and_nothing_that_moves_are_named() -> None:
    with pytest.raises(MethodError, match="2 metric rows"):
        build_panel(view_of({("a", "x"): [1, 2]}, normal_rows=1))
    with pytest.raises(MethodError, match="no metric moves"):
        build_panel(view_of({("a", "x"): [1] * 9}, normal_rows=4))


def test_a_gap_beside_a_hole_takes_a_value_of_its_own_side() -> None:
    values = np.array([[1.0], [np.nan], [np.nan], [7.0], [np.nan]])
    assert fill_gaps(values)[:, 0].tolist() == [1, 1, 1, 7, 7]
    assert fill_gaps(values, np.array([0, 1, 9, 10, 11]))[:, 0].tolist() == [1, 1, 7, 7, 7]
    assert fill_gaps(values, np.array([0, 1, 9, 20, 21]))[:, 0].tolist() == [1, 1, 1, 7, 7]
