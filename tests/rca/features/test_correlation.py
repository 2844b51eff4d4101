import numpy as np
import pandas as pd
import pytest

from tasks.rca.features.correlation import correlations, standardise_samples


def test_without_gaps_it_is_pearsons() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(50, 3)), rng.normal(size=(50, 4))
    expected = np.corrcoef(left.T, right.T)[:3, 3:]
    np.testing.assert_allclose(correlations(left * 1e6 + 1e9, right * 1e-9), expected, atol=1e-6)


def test_with_gaps_it_is_over_the_rows_where_both_have_a_sample() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(60, 2)), rng.normal(size=(60, 3))
    left[rng.random(left.shape) < 0.4] = np.nan
    right[rng.random(right.shape) < 0.4] = np.nan
    expected = [[pd.Series(a).corr(pd.Series(b)) for b in right.T] for a in left.T]
    np.testing.assert_allclose(correlations(left, right), expected, atol=1e-9)


@pytest.mark.parametrize(
    "still",
    [
        [5.0] * 6,
        [np.nan] * 6,
        [1.0, 2.0, np.nan, np.nan, np.nan, np.nan],
        [0.1 + 0.2, 0.3, 0.3, 0.3, 0.3, 0.3],
        [1e9, 3.0, 3.0, 3.0, 3.0, 3.0],
    ],
)
def test_a_series_that_does_not_move_gives_zero_and_never_nan(still: list[float]) -> None:
    moves = np.array([[np.nan], [2.0], [1.0], [4.0], [3.0], [7.0]])
    assert correlations(np.array(still)[:, None], moves) == 0.0
    assert correlations(moves, np.array(still)[:, None]) == 0.0


def test_huge_values_and_opposite_series() -> None:
    values = np.arange(8.0)[:, None]
    assert correlations(values * 1e300, -values) == pytest.approx(-1.0)


def test_no_columns_and_no_rows() -> None:
    assert correlations(np.zeros((5, 0)), np.zeros((5, 2))).shape == (0, 2)
    assert correlations(np.zeros((0, 1)), np.zeros((0, 2))).tolist() == [[0.0, 0.0]]


def test_standardised_samples() -> None:
    scaled = standardise_samples(np.array([[1.0, 4.0], [3.0, 4.0], [np.nan, 4.0], [np.inf, np.nan]]))
    np.testing.assert_allclose(scaled, [[-1, 0], [1, 0], [np.nan, 0], [np.nan, np.nan]])
